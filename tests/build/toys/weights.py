"""The source's bytes, "quantised"."""

import json

from toys.shared import called


def run(config, inputs, out, log):
    called("weights")
    quant = config["quant"]
    text = min(inputs["source"].iterdir()).read_text()
    (out / "llm.mnn.weight").write_text(f"{quant['bits']}/{quant['block']}:{text}" * 100)
    (out / "weights.json").write_text(json.dumps({"bits": quant["bits"]}))
    log.progress(1, 1, "bytes")

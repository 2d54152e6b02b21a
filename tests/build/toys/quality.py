"""The gate."""

import json

from toys.shared import called


def run(config, inputs, out, log):
    called("quality")
    size = (inputs["weights"] / "llm.mnn.weight").stat().st_size
    limit = min(config["verify"].values())
    passed = size <= limit
    (out / "report.json").write_text(json.dumps({"size": size, "passed": passed}))
    if not passed:
        from pipeline.errors import StageFailed

        raise StageFailed(f"the weights have {size} bytes, at most {limit} may pass", "raise the limit")
    log.note(f"{size} bytes pass")

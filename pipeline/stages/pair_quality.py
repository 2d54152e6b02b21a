"""The gate of a cross-encoder's product: its files, as they will be shipped, on the engine's own embedding class."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.build.stage import Input, Log, Stage
from pipeline.stages.sentence_quality import SHIPPED, say_model
from pipeline.verify.applies import proves_pairs

STAGE = Stage(
    name="pair_quality",
    module=__name__,
    inputs=(
        Input("link", ("llm.mnn",)),
        Input("weights", ("llm.mnn.weight", "weights.json")),
        Input("embedding", ("embeddings_*", "embedding.json")),
        Input("tokenizer", ("tokenizer.mtok", "tokenizer.txt", "tokenizer.json")),
        Input("config", ("config.json", "llm_config.json")),
        Input("graph", ("layout.json",)),
        Input("pair_reference"),
    ),
    config=("quant.bits", "verify.mode", "verify.thresholds", "verify.threads"),
    tools=("MNN", "numpy"),
    code=("pipeline.mnn.runner",),
    memory=lambda recipe: 1 << 30,
    applies=proves_pairs,
)


def run(config: Mapping[str, Any], inputs: Mapping[str, Path], out: Path, log: Log) -> None:
    """Write `report.json`, then raise StageFailed if the gate says no. Raises UserError for bits without thresholds."""
    import numpy as np

    from pipeline.verify import gate, pairs, product
    from pipeline.verify.pair_reference import LOGITS, REFERENCE

    verify, folder = config["verify"], inputs["pair_reference"]
    logits = folder / LOGITS
    with tempfile.TemporaryDirectory(prefix="product-") as scratch:
        place = product.assemble([inputs[name] for name in SHIPPED], Path(scratch) / "product")
        say_model(place, product.read_json(inputs["graph"] / "layout.json"))
        report = pairs.judge(
            place,
            product.read_json(folder / REFERENCE),
            np.load(logits) if logits.is_file() else None,
            product.read_json(inputs["weights"] / "weights.json"),
            gate.limits_for(verify["thresholds"], int(config["quant"]["bits"])),
            str(verify["mode"]),
            int(verify["threads"]),
        )
    path = report.write(out)
    log.note(_summary(report.figures.get("rerank")) or gate.summary(report))
    gate.enforce(report, path)


def _summary(figures: Mapping[str, Any] | None) -> str:
    if not figures:
        return ""
    return (
        f"logits within {figures['max_logit_error']:.4g} of Hugging Face's over {figures['pairs']} pairs "
        f"(range {figures['logit_range']:.3g}), {figures['order']:.1%} of {figures['order_of']} documents' order kept"
    )

"""The gate of an embedding product: its files, as they will be shipped, on the engine's own embedding class."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.build.stage import Input, Log, Stage
from pipeline.verify.applies import proves_sentences

SHIPPED = ("link", "weights", "embedding", "config", "tokenizer")

STAGE = Stage(
    name="sentence_quality",
    module=__name__,
    inputs=(
        Input("link", ("llm.mnn",)),
        Input("weights", ("llm.mnn.weight", "weights.json")),
        Input("embedding", ("embeddings_*", "embedding.json")),
        Input("tokenizer", ("tokenizer.mtok", "tokenizer.txt", "tokenizer.json")),
        Input("config", ("config.json", "llm_config.json")),
        Input("graph", ("layout.json",)),
        Input("sentence_reference"),
    ),
    config=("quant.bits", "verify.mode", "verify.thresholds", "verify.threads"),
    tools=("MNN", "numpy"),
    code=("pipeline.mnn.runner",),
    memory=lambda recipe: 1 << 30,
    applies=proves_sentences,
)


def run(config: Mapping[str, Any], inputs: Mapping[str, Path], out: Path, log: Log) -> None:
    """Write `report.json`, then raise StageFailed if the gate says no. Raises UserError for bits without thresholds."""
    import numpy as np

    from pipeline.verify import gate, product, sentences
    from pipeline.verify.sentence_reference import REFERENCE, VECTORS

    verify, folder = config["verify"], inputs["sentence_reference"]
    vectors = folder / VECTORS
    with tempfile.TemporaryDirectory(prefix="product-") as scratch:
        place = product.assemble([inputs[name] for name in SHIPPED], Path(scratch) / "product")
        say_model(place, product.read_json(inputs["graph"] / "layout.json"))
        report = sentences.judge(
            place,
            product.read_json(folder / REFERENCE),
            np.load(vectors) if vectors.is_file() else None,
            product.read_json(inputs["weights"] / "weights.json"),
            gate.limits_for(verify["thresholds"], int(config["quant"]["bits"])),
            str(verify["mode"]),
            int(verify["threads"]),
        )
    path = report.write(out)
    log.note(_summary(report.figures.get("embedding")) or gate.summary(report))
    gate.enforce(report, path)


def say_model(folder: Path, layout: Mapping[str, Any]) -> None:
    """The product's manifest comes after the gate; what it will say of the model is what the runner goes by."""
    import json

    (folder / "manifest.json").write_text(json.dumps({"model": dict(layout)}), "utf-8")


def _summary(figures: Mapping[str, Any] | None) -> str:
    if not figures:
        return ""
    return (
        f"cosine to Hugging Face at least {figures['min_cosine']:.6f} over {figures['texts']} texts, "
        f"rank correlation of pairs {figures['rank_correlation']:.5f}"
    )

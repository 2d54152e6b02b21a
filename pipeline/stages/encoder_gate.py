"""What the gates of embedding models and of cross-encoders share: a product of the files to be shipped, judged."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.build.stage import Input, Log

if TYPE_CHECKING:
    from pipeline.verify.gate import Report

SHIPPED = ("link", "weights", "embedding", "config", "tokenizer")
INPUTS = (
    Input("link", ("llm.mnn",)),
    Input("weights", ("llm.mnn.weight", "weights.json")),
    Input("embedding", ("embeddings_*", "embedding.json")),
    Input("tokenizer", ("tokenizer.mtok", "tokenizer.txt", "tokenizer.json")),
    Input("config", ("config.json", "llm_config.json")),
    Input("graph", ("layout.json",)),
)
CONFIG = ("quant.bits", "verify.mode", "verify.thresholds", "verify.threads")
Summary = Callable[[Mapping[str, Any]], str]


@dataclass(frozen=True)
class Reference:
    """Where Hugging Face's answers are: a stage, its JSON file, and its array (missing if none was computed)."""

    stage: str
    told: str
    values: str


def run_gate(
    config: Mapping[str, Any],
    inputs: Mapping[str, Path],
    out: Path,
    log: Log,
    reference: Reference,
    judge: Callable[..., Report],
    summary: Summary,
) -> None:
    """Write `report.json`, then raise StageFailed if the gate says no. Raises UserError for bits without thresholds.

    judge: `sentences.judge` or `pairs.judge`. summary: one line of the report's figures, {} where there are none.
    """
    import numpy as np

    from pipeline.verify import gate, product

    verify, folder = config["verify"], inputs[reference.stage]
    values = folder / reference.values
    with tempfile.TemporaryDirectory(prefix="product-") as scratch:
        place = product.assemble([inputs[name] for name in SHIPPED], Path(scratch) / "product")
        _say_model(place, product.read_json(inputs["graph"] / "layout.json"))
        report = judge(
            place,
            product.read_json(folder / reference.told),
            np.load(values) if values.is_file() else None,
            product.read_json(inputs["weights"] / "weights.json"),
            gate.limits_for(verify["thresholds"], int(config["quant"]["bits"])),
            str(verify["mode"]),
            int(verify["threads"]),
        )
    path = report.write(out)
    log.note(summary(report.figures) or gate.summary(report))
    gate.enforce(report, path)


def _say_model(folder: Path, layout: Mapping[str, Any]) -> None:
    """The product's manifest comes after the gate; what it will say of the model is what the runner goes by."""
    (folder / "manifest.json").write_text(json.dumps({"model": dict(layout)}), "utf-8")

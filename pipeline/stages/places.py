"""Stage places: how each linear is stored, and where in the weight file, decided before any weight is read.

What comes after it, the link among them, needs no weights: it runs beside the stage that writes them, and is not done
again when only their values change (another calibration, another fine-tune of the same shape).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.build.stage import Input, Log, Stage
from pipeline.weights.config import PRECISION_CONFIG

if TYPE_CHECKING:
    from pipeline.weights.layout import Layout
    from pipeline.weights.precision import Precision

STAGE = Stage(
    name="places",
    module=__name__,
    inputs=(
        Input("source"),
        Input("adapter"),
        Input("checkpoint", ("tensors.json", "config.json")),
        Input("graph", ("layout.json",)),
        Input("sensitivity"),
    ),
    config=("adapter.mode", "adapter.weight", "target.scale_bits", *PRECISION_CONFIG),
    tools=("numpy", "ml_dtypes"),
    in_process=True,
)


def run(config: Mapping[str, Any], inputs: Mapping[str, Path], out: Path, log: Log) -> None:
    """Writes places.json (docs/architecture.md). Raises UserError for what the quant section asks and the model, its
    checkpoint or the engine cannot give."""
    from pipeline.weights.allocation import precisions_for
    from pipeline.weights.layout import load_layout
    from pipeline.weights.places import PLACES, places

    layout = load_layout(inputs["graph"] / "layout.json")
    precisions = precisions_for(layout, config["quant"], inputs)
    if any(precision.algorithm == "source" for precision in precisions.values()):
        precisions = _as_in_the_source(config, inputs, layout, precisions, log)
    (out / PLACES).write_text(json.dumps(places(layout, precisions), indent=1) + "\n", encoding="utf-8")


def _as_in_the_source(
    config: Mapping[str, Any], inputs: Mapping[str, Path], layout: Layout, asked: dict[str, Precision], log: Log
) -> dict[str, Precision]:
    """The only case that looks into the checkpoint: which of its codes the engine can hold, and in which scales."""
    from pipeline.checkpoint.open import open_model
    from pipeline.weights.source import follow_source

    wide_only = (config.get("target") or {}).get("scale_bits") == 32
    precisions, told = follow_source(layout, asked, open_model(config, inputs), wide_only)
    log.note(told)
    return precisions

"""Stage visual_weights: the linears and tables of the vision encoder, into visual.mnn.weight."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.build.stage import Digests, Input, Log, Stage
from pipeline.stages.towers.wanted import wants
from pipeline.stages.towers.weights import write_weights

STAGE = Stage(
    name="visual_weights",
    module=__name__,
    inputs=(
        Input("source"),
        Input("adapter"),
        Input("checkpoint", ("tensors.json", "config.json")),
        Input("visual_graph", ("layout.json",)),
    ),
    config=("adapter.mode", "adapter.weight", "visual.bits", "visual.block", "visual.symmetric", "visual.algorithm",
            "visual.rules", "quant.scale_bits"),
    tools=("numpy", "numba", "ml_dtypes"),
    applies=wants("visual"),
)  # fmt: skip


def run(config: Mapping[str, Any], inputs: Mapping[str, Path], out: Path, log: Log) -> Digests:
    """Writes visual.mnn.weight and weights.json (docs/architecture.md)."""
    return write_weights("visual", config, inputs, out, log)

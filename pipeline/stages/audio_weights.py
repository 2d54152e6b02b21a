"""Stage audio_weights: the linears and tables of the sound encoder, into audio.mnn.weight."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.build.stage import Digests, Input, Log, Stage
from pipeline.stages.towers.wanted import wants
from pipeline.stages.towers.weights import write_weights

STAGE = Stage(
    name="audio_weights",
    module=__name__,
    inputs=(
        Input("source"),
        Input("adapter"),
        Input("checkpoint", ("tensors.json", "config.json")),
        Input("audio_graph", ("layout.json",)),
    ),
    config=("adapter.mode", "adapter.weight", "audio.bits", "audio.block", "audio.symmetric", "audio.algorithm",
            "audio.rules", "quant.scale_bits"),
    tools=("numpy", "numba", "ml_dtypes"),
    applies=wants("audio"),
)  # fmt: skip


def run(config: Mapping[str, Any], inputs: Mapping[str, Path], out: Path, log: Log) -> Digests:
    """Writes audio.mnn.weight and weights.json (docs/architecture.md)."""
    return write_weights("audio", config, inputs, out, log)

"""Stage audio_graph: a model's config → the graph of its sound encoder, without weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.build.stage import Input, Log, Stage
from pipeline.stages.towers.graph import GRAPH_FILES, write_graph
from pipeline.stages.towers.wanted import wants

STAGE = Stage(
    name="audio_graph",
    module=__name__,
    inputs=(Input("checkpoint", GRAPH_FILES),),
    config=(
        *("model.trust_remote_code", "target.graph.fuse_c4", "target.mnnconvert"),
        *("visual.mode", "visual.positions"),
    ),
    tools=("MNN", "onnx", "torch", "transformers"),
    code=("pipeline.graph.towers",),
    warm=("torch", "transformers"),
    memory=lambda recipe: 600 << 20,
    applies=wants("audio"),
)


def run(config: Mapping[str, Any], inputs: Mapping[str, Path], out: Path, log: Log) -> None:
    """Writes audio.onnx, layout.json, skeleton.json and audio.json (docs/architecture.md)."""
    visual = config["visual"]  # the decoder's rows are wider where it counts the positions of pictures
    exact = visual["mode"] == "auto" and visual["positions"] == "exact"
    write_graph("audio", config, inputs, out, log, exact_positions=exact)

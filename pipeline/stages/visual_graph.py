"""Stage visual_graph: a model's config → the graph of its vision encoder, without weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.build.stage import Input, Log, Stage
from pipeline.stages.towers.graph import GRAPH_FILES, write_graph
from pipeline.stages.towers.wanted import wants

STAGE = Stage(
    name="visual_graph",
    module=__name__,
    inputs=(Input("checkpoint", GRAPH_FILES),),
    config=("model.trust_remote_code", "target.graph.fuse_c4", "target.mnnconvert", "visual.positions"),
    tools=("MNN", "onnx", "torch", "transformers"),
    code=("pipeline.graph.towers",),
    warm=("torch", "transformers"),
    memory=lambda recipe: 600 << 20,
    applies=wants("visual"),
)


def run(config: Mapping[str, Any], inputs: Mapping[str, Path], out: Path, log: Log) -> None:
    """Writes visual.onnx, layout.json, skeleton.json and visual.json (docs/architecture.md)."""
    exact = config["visual"]["positions"] == "exact"
    write_graph("visual", config, inputs, out, log, exact_positions=exact)

"""Stage visual_link: the vision encoder's skeleton and weight places → visual.mnn."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.build.stage import Input, Log, Stage
from pipeline.stages.towers.link import write_link
from pipeline.stages.towers.wanted import wants

STAGE = Stage(
    name="visual_link",
    module=__name__,
    inputs=(Input("visual_graph", ("skeleton.json", "layout.json")), Input("visual_weights", ("weights.json",))),
    config=("target.graph.fuse_c4", "target.mnnconvert"),
    tools=("MNN",),
    applies=wants("visual"),
)


def run(config: Mapping[str, Any], inputs: Mapping[str, Path], out: Path, log: Log) -> None:
    """Writes visual.mnn and visual.mnn.json."""
    write_link("visual", config, inputs, out, log)

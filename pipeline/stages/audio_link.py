"""Stage audio_link: the sound encoder's skeleton and weight places → audio.mnn."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.build.stage import Input, Log, Stage
from pipeline.stages.towers.link import write_link
from pipeline.stages.towers.wanted import wants

STAGE = Stage(
    name="audio_link",
    module=__name__,
    inputs=(Input("audio_graph", ("skeleton.json", "layout.json")), Input("audio_weights", ("weights.json",))),
    config=("target.graph.fuse_c4", "target.mnnconvert"),
    tools=("MNN",),
    applies=wants("audio"),
)


def run(config: Mapping[str, Any], inputs: Mapping[str, Path], out: Path, log: Log) -> None:
    """Writes audio.mnn and audio.mnn.json."""
    write_link("audio", config, inputs, out, log)

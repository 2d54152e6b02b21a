"""The body of the stages `visual_link` and `audio_link`."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.build.stage import Log


def write_link(kind: str, config: Mapping[str, Any], inputs: Mapping[str, Path], out: Path, log: Log) -> None:
    """Writes <kind>.mnn and <kind>.mnn.json. Raises StageFailed as the stage `link` does."""
    from pipeline.mnn.converter import Converter
    from pipeline.mnn.link import check_layout, link

    graph, target = inputs[f"{kind}_graph"], config["target"]
    layout = json.loads((graph / "layout.json").read_text(encoding="utf-8"))
    weights = json.loads((inputs[f"{kind}_weights"] / "weights.json").read_text(encoding="utf-8"))
    check_layout(layout, weights)
    with tempfile.TemporaryDirectory(prefix="tower-") as scratch:
        work = Path(scratch)
        converter = Converter(work / "converter.log", target.get("mnnconvert", ""))
        fuse_c4 = bool(target["graph"]["fuse_c4"])
        name = f"{kind}.mnn"
        try:
            operators = link(graph / "skeleton.json", weights, out, work, converter, fuse_c4, name=name)
        finally:
            if converter.log.is_file():  # into the stage's own log file
                print(converter.log.read_text(encoding="utf-8", errors="replace"), flush=True)
    log.note(f"{operators} operators")

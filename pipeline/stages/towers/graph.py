"""The body of the stages `visual_graph` and `audio_graph`."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.build.stage import Log

GRAPH_FILES = (
    "config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "tensors.json",
    "small.safetensors",
    "tokenizer.json",
    "*.py",
)


def write_graph(
    kind: str,
    config: Mapping[str, Any],
    inputs: Mapping[str, Path],
    out: Path,
    log: Log,
    *,
    exact_positions: bool = False,
) -> None:
    """Writes <kind>.onnx, layout.json, skeleton.json and <kind>.json. exact_positions: see Options.

    Raises UserError with the reason for an encoder that cannot be expressed, StageFailed when the converter fails.
    """
    from pipeline.graph.towers.export import export
    from pipeline.graph.tracer import Options
    from pipeline.mnn.skeleton import build_skeleton

    target = config["target"]
    fuse_c4 = bool(target["graph"]["fuse_c4"])
    options = Options(fuse_rope=fuse_c4, exact_positions=exact_positions)
    exported = export(kind, inputs["checkpoint"], out, options, bool(config["model"]["trust_remote_code"]))
    with tempfile.TemporaryDirectory(prefix="tower-") as scratch:
        program = target.get("mnnconvert", "")
        build_skeleton(exported.onnx, out / "skeleton.json", Path(scratch), fuse_c4, program=program)
    _write_json(out / "layout.json", exported.layout)
    _write_json(out / f"{kind}.json", exported.preprocessing)
    for note in (*exported.layout["approximations"], *exported.layout["notes"]):
        log.note(note)


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n", encoding="utf-8")

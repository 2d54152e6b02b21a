"""Stage graph: a model's config → its graph without weights, and what the weight file must hold for it."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.build.stage import Input, Log, Stage
from pipeline.stages.towers.forgotten import refuse_forgotten

if TYPE_CHECKING:
    from pipeline.graph.export import Exported
    from pipeline.graph.tracer import Options

FILES = (
    *("config.json", "tensors.json", "small.safetensors", "*.py"),
    *("modules.json", "config_sentence_transformers.json", "sentence_bert_config.json", "*/config.json"),
)
STAGE = Stage(
    name="graph",
    module=__name__,
    inputs=(Input("checkpoint", FILES), Input("pair", ("pair.json",))),
    config=(
        "audio.mode",
        "graph.allow_approximate",
        "model.modalities",
        "model.pooling",
        "model.task",
        "model.trust_remote_code",
        "target.graph.fuse_c4",
        "target.mnnconvert",
        "visual.mode",
        "visual.positions",
    ),
    code=("pipeline.graph.towers",),
    tools=("MNN", "onnx", "torch", "transformers"),
    warm=("pipeline.graph.quick_import",),
    memory=lambda recipe: 600 << 20,
)


def run(config: Mapping[str, Any], inputs: Mapping[str, Path], out: Path, log: Log) -> None:
    """Writes llm.onnx, layout.json and skeleton.json (docs/architecture.md).

    Raises UserError with the reason for a model that cannot be expressed, StageFailed when the converter fails.
    """
    from pipeline.graph import quick_import

    quick_import.load()
    from pipeline.graph.tracer import Options
    from pipeline.mnn.skeleton import build_skeleton

    fuse_c4 = bool(config["target"]["graph"]["fuse_c4"])
    visual = config.get("visual") or {}
    options = Options(
        fuse_rope=fuse_c4,
        allow_approximate=bool(config["graph"]["allow_approximate"]),
        pictures=visual.get("mode") == "auto" and "visual" in (config["model"].get("modalities") or []),
        exact_positions=visual.get("mode") == "auto" and visual.get("positions") == "exact",
    )
    refuse_forgotten(inputs["checkpoint"], config)
    exported = _export(config["model"], inputs, out, options)
    with tempfile.TemporaryDirectory(prefix="graph-") as scratch:
        program = config["target"].get("mnnconvert", "")
        skeleton = out / "skeleton.json"
        build_skeleton(exported.onnx, skeleton, Path(scratch), fuse_c4, experts=exported.experts, program=program)
    _write(out / "layout.json", exported.layout)
    for note in (*exported.layout["approximations"], *exported.layout["notes"]):
        log.note(note)


def _export(model: Mapping[str, Any], inputs: Mapping[str, Path], out: Path, options: Options) -> Exported:
    trusted, checkpoint = bool(model["trust_remote_code"]), inputs["checkpoint"]
    if model["task"] == "embedding":
        from pipeline.checkpoint.sentence import read_sentence_config
        from pipeline.graph.sentence import export_sentence

        sentence = read_sentence_config(checkpoint, str(model["pooling"]))
        return export_sentence(checkpoint, out, options, sentence, trusted)
    if model["task"] == "rerank":
        from pipeline.graph.cross_encoder import export_cross_encoder

        pair = json.loads((inputs["pair"] / "pair.json").read_text("utf-8"))
        return export_cross_encoder(checkpoint, out, options, pair, trusted)
    from pipeline.graph.export import export

    return export(checkpoint, out, options, trusted)


def _write(path: Path, layout: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(layout, indent=1, sort_keys=True) + "\n", encoding="utf-8")

"""What the stages of an encoder do, for whichever encoder: `visual_*` and `audio_*` are this, under their own names.

An encoder is a second small model beside the decoder: its own graph, weight file and link, so that neither is rebuilt
when the other's precision changes. No stage itself.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pipeline.build.stage import Log
from pipeline.errors import UserError
from pipeline.graph.towers import families

GRAPH_FILES = (
    "config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "tensors.json",
    "small.safetensors",
    "tokenizer.json",
    "*.py",
)


def wants(kind: str) -> Callable[[Mapping[str, Any]], bool]:
    """Whether a recipe builds the encoder `kind`: the model has one, and the recipe does not leave it out."""
    return lambda recipe: kind in (recipe["model"].get("modalities") or []) and recipe[kind]["mode"] != "off"


def refuse_forgotten(checkpoint: Path, config: Mapping[str, Any]) -> None:
    """Raises UserError if the model has an encoder of which the recipe says nothing: it would be left out unasked."""
    content = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    listed = config["model"].get("modalities") or []
    wanted = {kind: (config.get(kind) or {}).get("mode", "auto") != "off" for kind in families.SECTIONS}
    families.check(content, wanted)
    for kind in families.modalities(content):
        if wanted[kind] and kind not in listed:
            raise UserError(
                f"the model has a {kind} encoder, and the recipe's model.modalities does not name it",
                f"add model.modalities=[{kind}], or {kind}.mode=off for the text part alone",
            )


def write_graph(kind: str, config: Mapping[str, Any], inputs: Mapping[str, Path], out: Path, log: Log) -> None:
    """Writes <kind>.onnx, layout.json, skeleton.json and <kind>.json.

    Raises UserError with the reason for an encoder that cannot be expressed, StageFailed when the converter fails.
    """
    from pipeline.graph.towers.export import export
    from pipeline.graph.tracer import Options
    from pipeline.mnn.skeleton import build_skeleton

    target = config["target"]
    fuse_c4 = bool(target["graph"]["fuse_c4"])
    exact = config.get(kind, {}).get("positions") == "exact"
    options = Options(fuse_rope=fuse_c4, exact_positions=exact)
    exported = export(kind, inputs["checkpoint"], out, options, bool(config["model"]["trust_remote_code"]))
    with tempfile.TemporaryDirectory(prefix="tower-") as scratch:
        program = target.get("mnnconvert", "")
        build_skeleton(exported.onnx, out / "skeleton.json", Path(scratch), fuse_c4, program=program)
    _write_json(out / "layout.json", exported.layout)
    _write_json(out / f"{kind}.json", exported.preprocessing)
    for note in (*exported.layout["approximations"], *exported.layout["notes"]):
        log.note(note)


def write_weights(kind: str, config: Mapping[str, Any], inputs: Mapping[str, Path], out: Path, log: Log) -> None:
    """Writes <kind>.mnn.weight and weights.json, at the bits, block and algorithm of the recipe's section `kind`."""
    from pipeline.checkpoint.open import open_model
    from pipeline.weights.layout import load_layout
    from pipeline.weights.matrix import Encoder
    from pipeline.weights.plain import loops_for
    from pipeline.weights.precision import resolve
    from pipeline.weights.writer import write

    layout = load_layout(inputs[f"{kind}_graph"] / "layout.json")
    quant = {**config[kind], "scale_bits": config["quant"]["scale_bits"]}
    checkpoint = open_model(config, inputs)
    weights = sum(linear.out_features * linear.in_features for linear in layout.linears)
    written = write(
        out / f"{kind}.mnn.weight",
        layout,
        resolve(layout, quant),
        Encoder(checkpoint, loops_for(weights), {}, {}),
        lambda done: log.progress(2 * done, 2 * weights, f"{kind} weights"),
    )
    _write_json(out / "weights.json", written)
    log.note(f"{written['bytes'] / 1e6:.1f} MB, {8 * written['bytes'] / max(weights, 1):.2f} bits per weight")


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


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n", encoding="utf-8")

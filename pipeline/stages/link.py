"""Stage link: skeleton and weight places → llm.mnn and llm.mnn.json. It runs while the weights are being written."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.build.stage import Input, Log, Stage

STAGE = Stage(
    name="link",
    module=__name__,
    inputs=(
        Input("graph", ("skeleton.json", "layout.json")),
        Input("places", ("places.json",)),
        Input("awq", ("folds.safetensors",)),
    ),
    config=("target.graph.fuse_c4", "target.mnnconvert"),
    tools=("MNN",),
    warm=("pipeline.mnn.converter", "pipeline.mnn.link"),
)


def run(config: Mapping[str, Any], inputs: Mapping[str, Path], out: Path, log: Log) -> None:
    """Raises StageFailed when graph and places do not belong together, or the converter fails."""
    from pipeline.mnn.converter import Converter
    from pipeline.mnn.link import check_layout, link

    layout = json.loads((inputs["graph"] / "layout.json").read_text(encoding="utf-8"))
    places = json.loads((inputs["places"] / "places.json").read_text(encoding="utf-8"))
    check_layout(layout, places)
    target = config["target"]
    with tempfile.TemporaryDirectory(prefix="link-") as scratch:
        work = Path(scratch)
        converter = Converter(work / "converter.log", target.get("mnnconvert", ""))
        try:
            skeleton = _skeleton(inputs, work)
            operators = link(skeleton, places, out, work, converter, bool(target["graph"]["fuse_c4"]))
        finally:
            _keep_log(converter.log)
    log.note(f"{operators} operators")


def _skeleton(inputs: Mapping[str, Path], work: Path) -> Path:
    """The graph's skeleton, or a copy in which norms took over the divisions that awq decided on."""
    skeleton = inputs["graph"] / "skeleton.json"
    if "awq" not in inputs:
        return skeleton
    from pipeline.mnn.dump import read_net, write_net
    from pipeline.mnn.rewrite.norm import divide_norms
    from pipeline.weights.folds import load_folds

    net = read_net(skeleton)
    divide_norms(net["oplists"], load_folds(inputs["awq"]).norms)
    write_net(net, work / "skeleton.json")
    return work / "skeleton.json"


def _keep_log(path: Path) -> None:
    """Copies the converter's log to this worker's own output, which is the stage's log file."""
    if path.is_file():
        print(path.read_text(encoding="utf-8", errors="replace"), flush=True)

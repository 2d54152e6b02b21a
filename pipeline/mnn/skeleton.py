"""ONNX with placeholders → the skeleton: MNN's JSON of the graph, exact constants inline, placeholders as Extra ops."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.mnn.converter import Converter
from pipeline.mnn.dump import dump_exact, write_net

Json = dict[str, Any]


def build_skeleton(
    onnx_path: Path,
    out_json: Path,
    work: Path,
    fuse_c4: bool,
    *,
    experts: Mapping[str, Path] | None = None,
    program: str = "",
) -> None:
    """Writes `out_json` from the ONNX file; `work` is a folder for intermediate files and the converter's log.

    experts: template name → ONNX file of one expert block (one input, one output, FakeLinears), for MoE placeholders
    whose attribute `expert` names the template; they become `subgraphs` of the skeleton.
    program: an MNNConvert of one's own (`target.mnnconvert`). Deterministic: the converter's random uuid is left out.
    Raises StageFailed with the converter's last lines, UserError for a wrong `program`.
    """
    work.mkdir(parents=True, exist_ok=True)
    converter = Converter(work / "converter.log", program)
    net = _exact_net(converter, onnx_path, work / "graph.mnn", fuse_c4)
    templates = [
        _subgraph(name, _exact_net(converter, path, work / f"expert-{index}.mnn", fuse_c4))
        for index, (name, path) in enumerate(sorted((experts or {}).items()))
    ]
    if templates:
        net["subgraphs"] = [*net.get("subgraphs", []), *templates]
    write_net(net, out_json)


def _exact_net(converter: Converter, onnx: Path, mnn: Path, fuse_c4: bool) -> Json:
    external = mnn.with_name(mnn.name + ".weight")
    external.unlink(missing_ok=True)
    converter.onnx_to_mnn(onnx, mnn, fuse_c4)
    net = dump_exact(converter, mnn, external.read_bytes() if external.is_file() else b"")
    net.pop("mnn_uuid", None)
    return net


def _subgraph(name: str, net: Json) -> Json:
    """A net as a subgraph: other field names, and its inputs and outputs by tensor number."""
    inputs = [operator["outputIndexes"][0] for operator in net["oplists"] if operator["type"] == "Input"]
    return {
        "name": name,
        "inputs": inputs,
        "outputs": [net["tensorName"].index(output) for output in net["outputName"]],
        "tensors": net["tensorName"],
        "nodes": net["oplists"],
    }

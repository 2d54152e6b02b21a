"""The skeleton's constants against the ONNX file's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from pipeline.errors import StageFailed, UserError
from pipeline.mnn.dump import read_net, write_net
from pipeline.mnn.skeleton import build_skeleton
from tests.mnn.handmade import OnnxWriter

INVERSE_FREQUENCIES = (1e6 ** (-np.arange(0, 128, 2) / 128)).astype(np.float32)
TINY_GAMMA = np.random.default_rng(0).standard_normal(64).astype(np.float32) * np.float32(1e-5)
LARGE_TABLE = np.random.default_rng(1).standard_normal((60, 64)).astype(np.float32) * np.float32(1e-4)


def _write(path: Path, **extra: Any) -> Path:
    """Small and large constants, a norm with a tiny epsilon, and one placeholder."""
    writer = OnnxWriter()
    writer.op("Mul", ["x", writer.constant("inverse", INVERSE_FREQUENCIES)], "angles")
    writer.op("Gather", [writer.constant("table", LARGE_TABLE), "rows"], "looked_up", axis=0)
    normal = writer.rms_norm("x", "norm", TINY_GAMMA, 1e-12)
    values = {"name": "linear", "scale": 1.2345678e-7, "dims": [1, -1, 8], **extra}
    writer.placeholder("FakeLinear", [normal], ["projected"], **values)
    inputs = {"x": (TensorProto.FLOAT, [1, "n", 64]), "rows": (TensorProto.INT32, [1, "n"])}
    return writer.write(path, inputs, ["angles", "looked_up", "projected"])


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("skeleton")
    build_skeleton(_write(folder / "a.onnx"), folder / "skeleton.json", folder / "work", True)
    loaded: dict[str, Any] = json.loads((folder / "skeleton.json").read_text())
    return loaded


def _main(net: dict[str, Any], name: str) -> dict[str, Any]:
    return next(op["main"] for op in net["oplists"] if op["name"] == name)  # type: ignore[no-any-return]


def test_small_constants_are_exact(net: dict[str, Any]) -> None:
    assert np.array_equal(np.float32(_main(net, "inverse")["float32s"]), INVERSE_FREQUENCIES)


def test_large_constants_come_inline_and_exact(net: dict[str, Any]) -> None:
    table = _main(net, "table")
    assert np.array_equal(np.float32(table["float32s"]).reshape(table["dims"]), LARGE_TABLE)
    assert "external" not in table


def test_norms_keep_epsilon_and_gamma(net: dict[str, Any]) -> None:
    norm = next(op["main"] for op in net["oplists"] if op["type"] == "LayerNorm")
    assert np.float32(norm["epsilon"]) == np.float32(1e-12)
    assert np.array_equal(np.float32(norm["gamma"]), TINY_GAMMA)
    assert norm["useRMSNorm"] is True
    assert "external" not in norm


def test_attributes_of_placeholders_are_exact(net: dict[str, Any]) -> None:
    extra = next(op["main"] for op in net["oplists"] if op["type"] == "Extra")
    values = {entry["key"]: entry for entry in extra["attr"]}
    assert np.float32(values["scale"]["f"]) == np.float32(1.2345678e-7)
    assert values["name"]["s"] == "linear"
    assert values["dims"]["list"]["i"] == [1, -1, 8]


def test_it_is_deterministic_and_without_the_random_uuid(tmp_path: Path) -> None:
    onnx_file = _write(tmp_path / "a.onnx")
    for name in ("first", "second"):
        build_skeleton(onnx_file, tmp_path / f"{name}.json", tmp_path / name, True)
    first = (tmp_path / "first.json").read_bytes()
    assert first == (tmp_path / "second.json").read_bytes()
    assert b"uuid" not in first


def test_a_constant_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    writer = OnnxWriter()
    writer.op("Add", ["x", writer.constant("mask", [0.0, -np.inf, 0.0, 0.0])], "masked")
    path = writer.write(tmp_path / "a.onnx", {"x": (TensorProto.FLOAT, [1, 4])}, ["masked"])
    with pytest.raises(StageFailed, match=r"inf|not finite"):
        build_skeleton(path, tmp_path / "skeleton.json", tmp_path / "work", True)


def test_expert_templates_become_subgraphs(tmp_path: Path) -> None:
    writer = OnnxWriter()
    writer.linear("hidden", "gate_proj", [8, 4], rank=2)
    expert = writer.write(tmp_path / "expert.onnx", {"hidden": (TensorProto.FLOAT, ["n", 4])}, ["gate_proj.out"])
    out = tmp_path / "skeleton.json"
    build_skeleton(_write(tmp_path / "a.onnx"), out, tmp_path / "work", True, experts={"swiglu": expert})
    subgraph = json.loads(out.read_text())["subgraphs"][0]
    assert subgraph["name"] == "swiglu"
    assert [subgraph["tensors"][i] for i in subgraph["inputs"]] == ["hidden"]
    assert [subgraph["tensors"][i] for i in subgraph["outputs"]] == ["gate_proj.out"]
    assert [op["type"] for op in subgraph["nodes"]] == ["Input", "Extra"]


def test_a_damaged_onnx_names_the_log(tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(onnx.ModelProto().SerializeToString() + b"\x07")
    with pytest.raises(StageFailed, match=r"converter\.log"):
        build_skeleton(tmp_path / "a.onnx", tmp_path / "skeleton.json", tmp_path / "work", True)


def test_a_wrong_converter_is_the_users_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"target\.mnnconvert"):
        build_skeleton(_write(tmp_path / "a.onnx"), tmp_path / "s.json", tmp_path / "work", True, program="/nowhere/x")


@pytest.mark.parametrize("text", ["", "[1]", "{}", '{"oplists": [', '{"oplists": [{"a": [-inf]}]}'])
def test_what_is_no_net_is_one_clear_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "net.json").write_text(text)
    with pytest.raises(StageFailed, match=r"net\.json"):
        read_net(tmp_path / "net.json")


def test_every_float32_survives_writing_and_reading(tmp_path: Path) -> None:
    bits = np.random.default_rng(0).integers(0, 2**32, 5000, dtype=np.uint32)
    floats = bits.view(np.float32)
    floats = floats[np.isfinite(floats)]
    write_net({"oplists": [{"v": [float(x) for x in floats]}]}, tmp_path / "net.json")
    again = np.float32(read_net(tmp_path / "net.json")["oplists"][0]["v"])
    assert np.array_equal(again.view(np.uint32), floats.view(np.uint32))

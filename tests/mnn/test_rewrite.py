"""Rewritten placeholders, run by the engine, against numpy: shapes and values of linears, tables and experts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from onnx import TensorProto

from pipeline.errors import StageFailed
from pipeline.mnn.converter import Converter
from pipeline.mnn.link import link, rewrite
from pipeline.mnn.rewrite.graph import attributes
from pipeline.mnn.skeleton import build_skeleton
from tests.mnn.handmade import OnnxWriter, write_fp16_weights
from tests.mnn.module import run_module

RANDOM = np.random.default_rng(0)
MATRIX = RANDOM.standard_normal((12, 8)).astype(np.float16)
INPUT = RANDOM.standard_normal((1, 5, 8)).astype(np.float32)


def _built(onnx_file: Path, weights: dict[str, Any], folder: Path, **options: Any) -> Path:
    """ONNX and weights.json → a linked llm.mnn in `folder`, where llm.mnn.weight is already."""
    build_skeleton(onnx_file, folder / "skeleton.json", folder / "work", True, **options)
    link(folder / "skeleton.json", weights, folder, folder / "work", Converter(folder / "work" / "log"), True)
    return folder / "llm.mnn"


@pytest.mark.parametrize("shape", [(5, 8), (1, 5, 8), (1, 1, 5, 8)])
def test_a_linear_keeps_values_and_rank(tmp_path: Path, shape: tuple[int, ...]) -> None:
    writer = OnnxWriter()
    projected = writer.linear("x", "linear", MATRIX.shape, rank=len(shape))
    writer.op("Add", [projected, writer.constant("one", 1.0)], "y")
    onnx_file = writer.write(tmp_path / "a.onnx", {"x": (TensorProto.FLOAT, [*shape[:-2], "n", 8])}, ["y"])
    weights = write_fp16_weights({"linear": torch.from_numpy(MATRIX)}, tmp_path / "llm.mnn.weight")
    mnn = _built(onnx_file, weights, tmp_path)
    output = run_module(mnn, {"x": INPUT.reshape(shape)}, ["y"], tmp_path / "run")["y"]
    assert output.shape == (*shape[:-1], 12)
    assert np.abs(output - (INPUT.reshape(shape) @ MATRIX.T.astype(np.float32) + 1)).max() < 1e-5


def test_a_linear_without_rank_has_rank_three() -> None:
    net = rewrite(_net(_extra("FakeLinear", name="q", in_features=8, out_features=12)), _weights("q"))
    assert net["oplists"][-1]["main"]["dims"] == [1, -1, 12]


def test_a_bias_follows_its_weights(tmp_path: Path) -> None:
    writer = OnnxWriter()
    writer.op("Neg", [writer.linear("x", "linear", MATRIX.shape)], "y")
    onnx_file = writer.write(tmp_path / "a.onnx", {"x": (TensorProto.FLOAT, [1, "n", 8])}, ["y"])
    weights = write_fp16_weights({"linear": torch.from_numpy(MATRIX)}, tmp_path / "llm.mnn.weight")
    bias = np.arange(12, dtype=np.float32)
    with (tmp_path / "llm.mnn.weight").open("ab") as file:
        file.write(bias.tobytes())
    weights["linears"]["linear"]["external"][3] = bias.nbytes
    output = run_module(_built(onnx_file, weights, tmp_path), {"x": INPUT}, ["y"], tmp_path / "run")["y"]
    assert np.abs(output + INPUT @ MATRIX.T.astype(np.float32) + bias).max() < 1e-5


def test_a_table_is_read_from_the_weight_file(tmp_path: Path) -> None:
    table = RANDOM.standard_normal((40, 8)).astype(np.float32)
    writer = OnnxWriter()
    writer.placeholder("Table", ["rows"], ["looked_up"], name="wpe", rows=40, columns=8)
    writer.op("Add", ["x", "looked_up"], "y")
    inputs = {"x": (TensorProto.FLOAT, [1, "n", 8]), "rows": (TensorProto.INT32, [1, "n"])}
    onnx_file = writer.write(tmp_path / "a.onnx", inputs, ["y"])
    (tmp_path / "llm.mnn.weight").write_bytes(bytes(16) + table.tobytes())
    weights = {"linears": {}, "tables": {"wpe": {"external": [16, table.nbytes]}}}
    rows = np.array([[3, 0, 39, 3, 7]], np.int32)
    output = run_module(_built(onnx_file, weights, tmp_path), {"x": INPUT, "rows": rows}, ["y"], tmp_path / "run")["y"]
    assert np.array_equal(output, INPUT + table[rows])


def test_a_table_of_another_size_is_refused() -> None:
    weights = {"linears": {}, "tables": {"wpe": {"external": [0, 99]}}}
    with pytest.raises(StageFailed, match="wpe has 99 bytes in the weight file, not 1280"):
        rewrite(_net(_extra("Table", name="wpe", rows=40, columns=8)), weights)


def _extra(kind: str, **values: Any) -> dict[str, Any]:
    entries = [{"key": key, "s" if isinstance(value, str) else "i": value} for key, value in values.items()]
    main = {"type": kind, "engine": "ONNX", "attr": entries}
    return {"type": "Extra", "name": "x", "main_type": "Extra", "main": main, "inputIndexes": [0], "outputIndexes": [1]}


def _net(*operators: dict[str, Any]) -> dict[str, Any]:
    return {"oplists": list(operators), "tensorName": ["in", "out"], "outputName": ["out"]}


def _weights(*names: str, **changes: Any) -> dict[str, Any]:
    entry = {
        "external": [0, 192, 0, 0, 0], "bits": 16, "block": 0, "symmetric": False, "scale_bits": 16,
        "shape_int32": False, "a_min": 0, "out_features": 12, "in_features": 8, **changes,
    }  # fmt: skip
    return {"linears": {name: dict(entry) for name in names}, "tables": {}}


def _quantisation(**changes: Any) -> dict[str, Any]:
    net = rewrite(_net(_extra("FakeLinear", name="q", in_features=8, out_features=12)), _weights("q", **changes))
    main = next(op["main"] for op in net["oplists"] if op["type"] == "Convolution")
    return main["quanParameter"]  # type: ignore[no-any-return]


def test_fp16_weights_say_type_three() -> None:
    assert _quantisation() == {"type": 3}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"bits": 4, "block": 4, "a_min": 1}, {"aMaxOrBits": 4, "readType": 24, "aMin": 1, "scaleStorage": "FP16"}),
        ({"bits": 8, "block": 0, "a_min": 1}, {"aMaxOrBits": 8, "readType": 12}),
        ({"bits": 4, "block": 4, "symmetric": True}, {"readType": 0}),
        ({"bits": 8, "scale_bits": 32}, {"scaleStorage": "FP32"}),
        ({"bits": 8, "shape_int32": True}, {"shapeInt32": True, "type": 1}),
    ],
)
def test_quantised_weights_say_how(changes: dict[str, Any], expected: dict[str, Any]) -> None:
    assert expected.items() <= _quantisation(**changes).items()


def test_an_unknown_operator_is_an_error_that_names_it() -> None:
    with pytest.raises(StageFailed, match=r"MNN does not know: Gelato \(x\)"):
        rewrite(_net(_extra("Gelato", name="q")), _weights())


def test_a_placeholder_without_weights_is_named() -> None:
    with pytest.raises(StageFailed, match=r"placeholder q has no entry under linears"):
        rewrite(_net(_extra("FakeLinear", name="q", in_features=8, out_features=12)), _weights("k"))


def test_weights_without_a_placeholder_are_named() -> None:
    net = _net(_extra("FakeLinear", name="q", in_features=8, out_features=12))
    with pytest.raises(StageFailed, match=r"1 only in the second \(k\)"):
        rewrite(net, _weights("q", "k"))


def test_another_shape_is_refused() -> None:
    net = _net(_extra("FakeLinear", name="q", in_features=16, out_features=12))
    with pytest.raises(StageFailed, match=r"q is \[12, 16\] in the graph but \[12, 8\]"):
        rewrite(net, _weights("q"))


def test_a_missing_attribute_is_named() -> None:
    with pytest.raises(StageFailed, match=r"FakeLinear x has no attribute 'out_features'"):
        rewrite(_net(_extra("FakeLinear", name="q", in_features=8)), _weights("q"))


def test_attributes_of_every_type() -> None:
    operator = _extra("Any", text="a", number=3)
    operator["main"]["attr"] += [
        {"key": "ratio", "i": 0, "f": 0.5},
        {"key": "none", "i": 0, "f": 0.0},
        {"key": "dims", "i": 0, "list": {"i": [1, -1]}},
    ]
    assert attributes(operator) == {"text": "a", "number": 3, "ratio": 0.5, "none": 0, "dims": [1, -1]}


def _moe(**values: Any) -> dict[str, Any]:
    return _extra("MoE", name="mlp.experts", num_experts=2, top_k=1, layer_id=7, expert="swiglu", **values)


def _template() -> dict[str, Any]:
    linear = _extra("FakeLinear", name="gate_proj", in_features=8, out_features=12, rank=2)
    return {"name": "swiglu", "inputs": [0], "outputs": [1], "tensors": ["in", "out"], "nodes": [linear]}


def test_experts_are_copies_with_their_own_weights() -> None:
    net = {**_net(_moe()), "subgraphs": [_template()]}
    weights = _weights("mlp.experts.0.gate_proj", "mlp.experts.1.gate_proj")
    weights["linears"]["mlp.experts.1.gate_proj"]["external"] = [192, 192, 0, 0, 0]
    rewritten = rewrite(net, weights)
    assert [graph["name"] for graph in rewritten["subgraphs"]] == ["/expert/7_0", "/expert/7_1"]
    offsets = [graph["nodes"][2]["main"]["external"][0] for graph in rewritten["subgraphs"]]
    assert offsets == [0, 192]
    assert rewritten["subgraphs"][1]["nodes"][-1]["main"]["dims"] == [-1, 12]
    assert sorted(attributes(rewritten["oplists"][0])) == ["layer_id", "num_experts", "top_k"]


def test_an_unknown_template_is_named() -> None:
    with pytest.raises(StageFailed, match="no expert template 'swiglu'"):
        rewrite(_net(_moe()), _weights())


def _rope_net(**norm: Any) -> dict[str, Any]:
    main = {"axis": [-1], "epsilon": 1e-6, "gamma": [1.0] * 4, "beta": [0.0] * 4, "useRMSNorm": True, **norm}
    layer_norm = {"type": "LayerNorm", "name": "n", "main_type": "LayerNorm", "main": main}
    rope = _extra("FusedRoPE", name="rope", rope_cut_head_dim=4, num_head=2, kv_num_head=1, head_dim=4)
    rope |= {"inputIndexes": [1, 2, 3, 4], "outputIndexes": [5, 6]}
    operators = [{**layer_norm, "inputIndexes": [0], "outputIndexes": [1]}, rope]
    return {"oplists": operators, "tensorName": list("abcdefg"), "outputName": ["f"]}


def test_a_norm_of_the_heads_goes_into_the_rope() -> None:
    operators = rewrite(_rope_net(), _weights())["oplists"]
    assert [op["type"] for op in operators] == ["RoPE"]
    assert operators[0]["inputIndexes"] == [0, 2, 3, 4]
    assert operators[0]["main"]["q_norm"]["gamma"] == [1.0] * 4
    assert "k_norm" not in operators[0]["main"]


@pytest.mark.parametrize("norm", [{"useRMSNorm": False}, {"gamma": [1.0] * 8}, {"beta": [0.0, 0.5, 0.0, 0.0]}])
def test_another_norm_stays_where_it_is(norm: dict[str, Any]) -> None:
    assert [op["type"] for op in rewrite(_rope_net(**norm), _weights())["oplists"]] == ["LayerNorm", "RoPE"]


def test_a_norm_that_others_read_stays_where_it_is() -> None:
    net = _rope_net()
    net["oplists"][1]["inputIndexes"] = [1, 1, 3, 4]
    assert [op["type"] for op in rewrite(net, _weights())["oplists"]] == ["LayerNorm", "RoPE"]


def test_attention_keeps_all_inputs_and_its_layer() -> None:
    extra = _extra("FusedAttention", name="att", layer_index=3) | {"inputIndexes": [0, 1, 2, 3, 4]}
    attention = rewrite(_net(extra), _weights())["oplists"][0]
    assert attention["type"] == "Attention"
    assert attention["inputIndexes"] == [0, 1, 2, 3, 4]
    assert attention["main"] == {"kv_cache": True, "layer_index": 3, "kv_shared_layer_index": -1}


def test_real_convolutions_keep_their_weights(tmp_path: Path) -> None:
    """A depthwise and a full convolution, the latter above the converter's limit for external data."""
    generator = torch.Generator().manual_seed(0)
    depthwise, full = (torch.randn(shape, generator=generator) for shape in ((16, 1, 3), (96, 16, 3)))
    writer = OnnxWriter()
    first = writer.op("Conv", ["x", writer.constant("w1", depthwise)], "first", group=16, pads=[1, 1])
    second = writer.op("Conv", [first, writer.constant("w2", full)], "second", pads=[1, 1])
    writer.op("Neg", [second], "y")
    onnx_file = writer.write(tmp_path / "a.onnx", {"x": (TensorProto.FLOAT, [1, 16, "n"])}, ["y"])
    (tmp_path / "llm.mnn.weight").write_bytes(b"")
    mnn = _built(onnx_file, {"linears": {}, "tables": {}}, tmp_path)
    source = torch.randn((1, 16, 9), generator=generator)
    output = run_module(mnn, {"x": source.numpy()}, ["y"], tmp_path / "run")["y"]
    convolve = torch.nn.functional.conv1d
    expected = -convolve(convolve(source, depthwise, groups=16, padding=1), full, padding=1)
    assert np.abs(output - expected.numpy()).max() < 1e-4

"""Each rewriting: what it removes, and that the rest computes the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.errors import UserError
from pipeline.graph import onnx_file
from pipeline.graph.ir import CUSTOM_DOMAIN, Builder, Graph, Grows, Linear, Part, Value, constant
from pipeline.graph.moves import cut, reshape, transpose
from pipeline.graph.passes.attention_mask import choose_mask
from pipeline.graph.passes.attention_scale import fold_attention_scale
from pipeline.graph.passes.dead import drop_dead
from pipeline.graph.passes.head_gamma import part_head_gammas
from pipeline.graph.passes.interleaved_rope import permute_rows
from pipeline.graph.passes.linear_input import drop_linear_reshapes
from pipeline.graph.passes.look_ahead import look_ahead
from pipeline.graph.passes.positions import check_positions
from pipeline.graph.passes.reshapes import join_reshapes
from pipeline.graph.passes.split_linear import split_linears
from pipeline.graph.passes.transposes import cancel_transposes
from pipeline.mnn.converter import Converter
from tests.graph.evaluate import SEQUENCE, run, trace
from tests.mnn.module import run_module

S = Grows(1)
X = (1, SEQUENCE, 8)


def _ops(graph: Graph) -> list[str]:
    return [node.op for node in graph.nodes]


def _same_after(rewrite: Any, function: Any, folder: Path) -> Graph:
    """`function` traced and rewritten, checked in onnxruntime against torch."""
    graph = trace(function, [X])
    rewrite(graph)
    x = torch.randn(1, 11, 8, generator=torch.Generator().manual_seed(0))
    np.testing.assert_allclose(run(graph, folder, [x])[0], function(x).numpy(), rtol=1e-5, atol=1e-6)
    return graph


class Net:
    """A graph of placeholders by hand: hidden size 8."""

    def __init__(self) -> None:
        self.builder = Builder(Graph())
        self.graph = self.builder.graph
        self.x = Value((1, S, 8), name="x")
        self.mask = Value((1, 1, S, S))
        self.graph.inputs = {"input_ids": self.x, "attention_mask": self.mask}

    def linear(self, name: str, out: int, bias: bool = False) -> Value:
        weight = Linear(name, out, 8, (Part(f"{name}.weight"),), (Part(f"{name}.bias"),) if bias else None)
        return self.builder.emit("FakeLinear", [self.x], (1, S, out), domain=CUSTOM_DOMAIN, linear=weight)

    def heads(self, value: Value, size: int = 4) -> Value:
        width = value.shape[-1]
        assert isinstance(width, int)
        return reshape(self.builder, value, (1, S, width // size, size))

    def rope(self, q: Value, k: Value, tables: tuple[Value, Value], rotary: int = 4) -> tuple[Value, Value]:
        outputs = Value(q.shape), Value(k.shape)
        self.builder.emit_many(
            "FusedRoPE", [q, k, *tables], outputs, CUSTOM_DOMAIN, rope_cut_head_dim=rotary, head_dim=4, name="/rope"
        )
        return outputs

    def tables(self) -> tuple[Value, Value]:
        """As rotary.py builds them."""
        rows = Value((S,), "int32")
        self.graph.inputs["rows"] = rows
        ch, sh, cl, sl = (
            self.builder.emit("Gather", [constant(np.full((3, 2), number)), rows], (S, 2), axis=0)
            for number in (0.1, 0.2, 0.3, 0.4)
        )
        sums = [
            self.builder.emit(op, [self.builder.emit("Mul", pair, (S, 2)) for pair in pairs], (S, 2))
            for op, pairs in (("Sub", ((ch, cl), (sh, sl))), ("Add", ((sh, cl), (ch, sl))))
        ]
        cosine, sine = (
            self.builder.emit("Concat", [reshape(self.builder, s, (1, S, 2))] * 2, (1, S, 4), axis=2) for s in sums
        )
        return cosine, sine

    def attention(self, q: Value, k: Value, v: Value, window: int = 0, factor: float = 1.0) -> Value:
        if factor != 1:
            q = self.builder.emit("Mul", [q, constant(factor)], q.shape)
        return self.builder.emit(
            "FusedAttention", [q, k, v, self.mask], (1, S, 8), domain=CUSTOM_DOMAIN, sliding_window=window, name="/a"
        )

    def named(self, name: str) -> Linear:
        return next(linear for linear in self.graph.linears() if linear.name == name)


def test_dead_nodes_go() -> None:
    graph = trace(lambda x: (x * 2, x + 1)[1], [X])
    graph.nodes.append(replace(graph.nodes[0], outputs=[Value((1,))]))
    drop_dead(graph)
    assert _ops(graph) == ["Add"]


def test_reshapes_join(tmp_path: Path) -> None:
    graph = _same_after(join_reshapes, lambda x: x.view(1, -1, 2, 4).view(-1, 8).view(1, -1, 4, 2) * 2, tmp_path)
    drop_dead(graph)
    assert _ops(graph) == ["Reshape", "Mul"]


def test_a_reshape_back_goes(tmp_path: Path) -> None:
    graph = _same_after(join_reshapes, lambda x: x.view(1, -1, 2, 4).reshape(1, -1, 8) * 2, tmp_path)
    drop_dead(graph)
    assert _ops(graph) == ["Mul"]


def _heads_norm(x: torch.Tensor) -> torch.Tensor:
    y = x.view(1, -1, 2, 4).transpose(1, 2)
    y = y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + 1e-6) * torch.arange(4.0)
    return y.transpose(1, 2)


def test_transposes_around_a_norm_cancel(tmp_path: Path) -> None:
    graph = _same_after(cancel_transposes, _heads_norm, tmp_path)
    assert "Transpose" not in _ops(graph)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: (x.view(1, -1, 2, 4).transpose(1, 2).sum(1, keepdim=True)).transpose(1, 2) * 2,
        lambda x: (x.view(1, -1, 2, 4).transpose(1, 2) * torch.arange(2.0).view(1, 2, 1, 1)).transpose(1, 2) * 2,
        lambda x: x.view(1, -1, 2, 4).transpose(1, 2).softmax(1).transpose(1, 2) * 2,
        lambda x: x.view(1, -1, 2, 4).transpose(1, 2) + 1,
    ],
)
def test_transposes_that_matter_stay(function: Any, tmp_path: Path) -> None:
    graph = _same_after(cancel_transposes, function, tmp_path)
    assert "Transpose" in _ops(graph)


def test_a_weight_by_head_stays_out_of_the_norm(tmp_path: Path) -> None:
    graph = _same_after(
        part_head_gammas, lambda x: norm_of_heads(x.view(1, -1, 2, 4)) * torch.arange(8.0).view(2, 4), tmp_path
    )
    assert _ops(graph)[-3:] == ["Reshape", "Mul", "Reshape"]


def norm_of_heads(x: torch.Tensor) -> torch.Tensor:
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)


def test_fused_q_k_v_split() -> None:
    net = Net()
    fused = net.linear("qkv", 16, bias=True)
    pieces = [cut(net.builder, fused, 2, *run) for run in ((0, 8), (8, 12), (12, 16))]
    net.graph.outputs = {str(i): piece for i, piece in enumerate(pieces)}
    split_linears(net.graph)
    assert _ops(net.graph) == ["FakeLinear"] * 3
    assert [linear.name for linear in net.graph.linears()] == ["qkv.0", "qkv.1", "qkv.2"]
    assert net.named("qkv.1") == Linear(
        "qkv.1", 4, 8, (Part("qkv.weight", rows=(8, 12)),), (Part("qkv.bias", rows=(8, 12)),)
    )


def test_heads_of_q_k_v_split() -> None:
    net = Net()
    fused = net.heads(net.linear("qkv", 24), size=12)  # two heads of q, k, v of 4
    net.graph.outputs = {str(i): cut(net.builder, fused, 3, 4 * i, 4 * i + 4) for i in range(3)}
    split_linears(net.graph)
    drop_dead(net.graph)
    assert _ops(net.graph) == ["FakeLinear", "Reshape"] * 3
    assert net.named("qkv.1").parts == (Part("qkv.weight", rows=(4, 8)), Part("qkv.weight", rows=(16, 20)))
    assert net.graph.outputs["1"].shape == (1, S, 2, 4)


def test_a_linear_that_is_also_read_whole_stays() -> None:
    net = Net()
    fused = net.linear("qkv", 16)
    net.graph.outputs = {"0": cut(net.builder, fused, 2, 0, 8), "1": net.builder.emit("Relu", [fused], fused.shape)}
    split_linears(net.graph)
    assert [linear.name for linear in net.graph.linears()] == ["qkv"]


def test_interleaved_heads_go_into_the_rows() -> None:
    net = Net()
    heads = net.heads(net.linear("q", 8, bias=True))
    turned = net.builder.emit("Deinterleave", [heads], heads.shape, rotary=4)
    net.graph.outputs = {"y": net.builder.emit("Relu", [turned], turned.shape)}
    permute_rows(net.graph)
    assert _ops(net.graph) == ["FakeLinear", "Reshape", "Relu"]
    assert net.named("q").parts == (Part("q.weight", deinterleave=(2, 4, 4)),)
    assert net.named("q").bias == (Part("q.bias", deinterleave=(2, 4, 4)),)


def test_interleaved_heads_behind_a_norm_are_reordered_in_the_graph() -> None:
    net = Net()
    heads = net.heads(net.linear("q", 8))
    normed = net.builder.emit("Mul", [heads, constant(np.arange(4.0))], heads.shape)
    turned = net.builder.emit("Deinterleave", [normed], heads.shape, rotary=2)
    net.graph.outputs = {"y": turned}
    permute_rows(net.graph)
    assert _ops(net.graph)[-6:] == ["Slice", "Reshape", "Transpose", "Reshape", "Slice", "Concat"]
    assert net.named("q").parts == (Part("q.weight"),)


def _layer(net: Net, factor: float, rotary: int = 4, roped: bool = True) -> None:
    q, k, v = (net.heads(net.linear(name, 8, bias=True)) for name in "qkv")
    if roped:
        q, k = net.rope(q, k, net.tables(), rotary)
    net.graph.outputs = {"y": net.attention(q, k, v, factor=factor)}


def test_a_scale_goes_into_the_tables() -> None:
    net = Net()
    _layer(net, factor=0.25)
    fold_attention_scale(net.graph)
    tables = [float(node.inputs[0].data.flat[0]) for node in net.graph.nodes if node.op == "Gather"]  # type: ignore[union-attr]
    np.testing.assert_allclose(tables, [0.05, 0.1, 0.3, 0.4], rtol=1e-6)
    assert net.named("q").parts == (Part("q.weight"),)
    assert net.graph.nodes[-1].inputs[0].shape == (1, S, 2, 4)


@pytest.mark.parametrize("rotary, roped", [(2, True), (4, False)])
def test_a_scale_goes_into_the_weights_where_not_all_is_turned(rotary: int, roped: bool) -> None:
    net = Net()
    _layer(net, 0.25, rotary, roped)
    fold_attention_scale(net.graph)
    assert net.named("q").parts == (Part("q.weight", scale=0.25),)
    assert net.named("q").bias == (Part("q.bias", scale=0.25),)
    assert net.named("k").parts == (Part("k.weight"),)


def test_a_scale_on_a_shared_linear_stays() -> None:
    net = Net()
    q = net.heads(net.linear("q", 8))
    net.graph.outputs = {"y": net.attention(q, q, q, factor=0.25)}
    fold_attention_scale(net.graph)
    assert "Mul" in _ops(net.graph)


def test_a_linear_reads_before_its_reshape() -> None:
    net = Net()
    flat = reshape(net.builder, net.x, (S, 8))
    weight = Linear("w", 4, 8, (Part("w"),))
    net.graph.outputs = {"y": net.builder.emit("FakeLinear", [flat], (S, 4), domain=CUSTOM_DOMAIN, linear=weight)}
    drop_linear_reshapes(net.graph)
    drop_dead(net.graph)
    assert _ops(net.graph) == ["FakeLinear"]


def test_full_attention_leaves_the_mask_alone() -> None:
    net = Net()
    _layer(net, 1.0)
    choose_mask(net.graph)
    assert net.graph.window == 0
    assert net.graph.nodes[-1].inputs[3] is net.mask


def test_sliding_layers_read_the_second_mask() -> None:
    net = Net()
    q = net.heads(net.linear("q", 8))
    first = net.attention(q, q, q, window=16)
    net.graph.outputs = {"1": first, "2": net.attention(q, q, q)}
    choose_mask(net.graph)
    assert net.graph.window == 16
    assert net.mask.shape == (2, 1, 1, S, S)
    gathers = {node.output: int(node.inputs[1].data) for node in net.graph.nodes if node.op == "Gather"}  # type: ignore[arg-type]
    chosen = [gathers[node.inputs[3]] for node in net.graph.nodes if node.op == "FusedAttention"]
    assert chosen == [1, 0]


def test_tokens_look_ahead_in_masks_that_a_graph_can_read_only() -> None:
    net = Net()
    _layer(net, 1.0)
    net.graph.reach = net.builder.emit("Identity", [net.x], (S, 1))
    choose_mask(net.graph)
    with pytest.raises(UserError, match="none of its layers has a sliding window"):
        look_ahead(net.graph)


@pytest.mark.parametrize("layers", [("sliding", "full"), ("sliding",)])
def test_a_key_ahead_is_seen_as_far_as_the_reach_goes(tmp_path: Path, layers: tuple[str, ...]) -> None:
    """Five new tokens over two cached ones: a picture of two, a token of text, another picture of two; window 3."""
    net = Net()
    q = net.heads(net.linear("q", 8))
    reach = Value((S, 1), name="reach")
    net.graph.outputs = {name: net.attention(q, q, q, window=3 if name == "sliding" else 0) for name in layers}
    net.graph.inputs = {"attention_mask": net.mask, "reach": reach}
    net.graph.reach = reach
    choose_mask(net.graph)
    drop_dead(net.graph)
    look_ahead(net.graph)
    masks = [node.inputs[3] for node in net.graph.nodes if node.op == "FusedAttention"]
    net.graph.outputs = dict(zip(layers, masks, strict=True))
    drop_dead(net.graph)
    onnx_file.write(net.graph, tmp_path / "a.onnx")
    place, keys = np.arange(2, 7)[:, None], np.arange(7)[None]
    lowest = np.finfo(np.float32).min
    causal = np.where(keys > place, lowest, 0).astype(np.float32)
    windowed = np.where((keys > place) | (keys <= place - 3), lowest, 0).astype(np.float32)
    given = {"attention_mask": np.stack([causal, windowed])[:, None, None]}
    given["reach"] = np.array([[1], [0], [0], [1], [0]], np.float32)
    Converter(tmp_path / "log").onnx_to_mnn(tmp_path / "a.onnx", tmp_path / "a.mnn", True)
    found = run_module(tmp_path / "a.mnn", given, layers, tmp_path / "run")
    for seen in (causal, windowed):
        seen[0, 3] = seen[3, 6] = 0
    for name, expected in zip(layers, (windowed, causal), strict=False):
        np.testing.assert_array_equal(found[name][0, 0], expected)


def test_different_windows_are_refused() -> None:
    net = Net()
    q = net.heads(net.linear("q", 8))
    net.graph.outputs = {str(window): net.attention(q, q, q, window=window) for window in (16, 32)}
    with pytest.raises(UserError, match=r"different sliding windows \['16', '32'\]"):
        choose_mask(net.graph)


MIXING = {
    "scores": lambda x: (x @ x.transpose(1, 2)) * 2,
    "softmax": lambda x: x.softmax(1),
    "mean": lambda x: x - x.mean(1, keepdim=True),
    "shift": lambda x: x[:, :-1],
    "running sum": lambda x: x.cumsum(1),
    "last": lambda x: x[:, -1:],
    "weights over positions": lambda x: x.transpose(1, 2) @ x,
}


@pytest.mark.parametrize("name", MIXING)
def test_positions_come_together_in_attention_only(name: str) -> None:
    graph = trace(MIXING[name], [X])
    with pytest.raises(UserError, match=r"sequence|every pair of positions"):
        check_positions(graph)


def test_what_works_position_by_position_passes() -> None:
    check_positions(trace(lambda x: position_by_position(x), [X]))


def position_by_position(x: torch.Tensor) -> torch.Tensor:
    return x.view(-1, 8).softmax(-1).topk(2, -1)[0].sum(-1, keepdim=True) * x.mean(-1, keepdim=True)


def test_transposes_are_built_with_their_order() -> None:
    net = Net()
    assert transpose(net.builder, net.heads(net.x), (0, 2, 1, 3)).shape == (1, 2, S, 4)

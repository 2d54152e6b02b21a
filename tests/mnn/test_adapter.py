"""A split adapter's part of a linear is what the same adapter changes in the linear's merged weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pipeline.checkpoint.changes import ChangedTensor, Shift
from pipeline.checkpoint.changes import LowRank as TensorChange
from pipeline.checkpoint.lora_split import SplitAdapter
from pipeline.checkpoint.tensor import ArrayTensor, LazyTensor
from pipeline.errors import StageFailed
from pipeline.mnn.adapter import by_linear
from pipeline.weights.layout import Layout, Linear, Part
from pipeline.weights.parts import read_rows

IN = 12
RANDOM = np.random.default_rng(5)


def normal(*shape: int) -> np.ndarray:
    return RANDOM.standard_normal(shape).astype(np.float32)


def change(rows: int, columns: int, rank: int = 3) -> TensorChange:
    return TensorChange(normal(rows, rank), normal(rank, columns), 0.75)


BASE: dict[str, LazyTensor] = {
    "q": ArrayTensor(normal(16, IN)), "k": ArrayTensor(normal(8, IN)), "conv": ArrayTensor(normal(IN, 20)),
    "fused": ArrayTensor(normal(30, IN)), "embed": ArrayTensor(normal(40, IN)), "b": ArrayTensor(normal(16)),
}  # fmt: skip


def linear(name: str, rows: int, *parts: Part, bias: tuple[Part, ...] = ()) -> Linear:
    return Linear(name, rows, IN, parts, bias)


@pytest.mark.parametrize(
    ("one", "changed"),
    [
        (linear("q", 16, Part("q")), ["q"]),
        (linear("q", 16, Part("q", scale=0.25)), ["q"]),
        (linear("rope", 16, Part("q", deinterleave=(2, 8, 4))), ["q"]),
        (linear("conv", 20, Part("conv", transpose=True)), ["conv"]),
        (linear("conv", 7, Part("conv", transpose=True, rows=(3, 10))), ["conv"]),
        (linear("slice", 10, Part("fused", rows=(10, 20))), ["fused"]),
        (linear("both", 24, Part("q"), Part("k")), ["q", "k"]),
        (linear("first", 24, Part("q"), Part("k")), ["q"]),
        (linear("second", 24, Part("q"), Part("k")), ["k"]),
        (linear("same", 20, Part("fused", rows=(20, 30)), Part("fused", rows=(0, 10), scale=2.0)), ["fused"]),
        (linear("mixed", 28, Part("conv", transpose=True), Part("k")), ["conv", "k"]),
    ],
    ids=lambda value: value.name if isinstance(value, Linear) else "+".join(value),
)
def test_matrices(one: Linear, changed: list[str]) -> None:
    matrices = {name: change(*BASE[name].shape, rank=2 + number) for number, name in enumerate(changed)}
    merged = {**BASE, **{name: ChangedTensor(BASE[name], [low]) for name, low in matrices.items()}}
    found = by_linear(SplitAdapter("a", matrices, {}), Layout((one,)), BASE)[one.name]
    rows = one.out_features
    expected = read_rows(one.parts, merged, 0, rows) - read_rows(one.parts, BASE, 0, rows)
    np.testing.assert_allclose(found.up @ found.down, expected, atol=2e-5)
    assert np.abs(expected).max() > 0.1
    assert found.bias is None


def test_one_tensor_in_several_linears() -> None:
    layout = Layout(tuple(linear(f"qkv.{n}", 10, Part("fused", rows=(10 * n, 10 * n + 10))) for n in range(3)))
    low = change(30, IN)
    found = by_linear(SplitAdapter("a", {"fused": low}, {}), layout, BASE)
    whole = np.concatenate([found[f"qkv.{n}"].up @ found[f"qkv.{n}"].down for n in range(3)])
    np.testing.assert_allclose(whole, low.delta(0, 30), atol=2e-5)


@pytest.mark.parametrize("matrices", [{}, {"q": change(16, IN)}])
def test_biases(matrices: dict[str, TensorChange]) -> None:
    one = linear("q", 24, Part("q"), Part("k"), bias=(Part("b"), Part("c")))
    shift = Shift(normal(16))
    base = {**BASE, "c": ArrayTensor(normal(8))}
    found = by_linear(SplitAdapter("a", matrices, {"b": shift}), Layout((one,)), base)["q"]
    assert found.bias is not None
    np.testing.assert_array_equal(found.bias, np.concatenate([shift.values, np.zeros(8, np.float32)]))
    assert bool((found.up @ found.down).any()) == bool(matrices)


def test_a_tied_head_is_changed_apart_from_its_embedding() -> None:
    head = Linear("lm_head", 40, IN, (Part("embed"),))
    low = change(40, IN)
    found = by_linear(SplitAdapter("a", {"lm_head.weight": low}, {}), Layout((head,), tied=True), BASE)
    np.testing.assert_allclose(found["lm_head"].up @ found["lm_head"].down, low.delta(0, 40), atol=2e-5)


@pytest.mark.parametrize(
    ("parts", "message"),
    [((Part("q"),), "adapter a changes k, which is no linear"), ((Part("k", index=1),), "stack of matrices")],
)
def test_what_cannot_be_split(parts: tuple[Part, ...], message: str) -> None:
    base: dict[str, Any] = {**BASE, "k": ArrayTensor(normal(2, 8, IN))} if parts[0].index else BASE
    with pytest.raises(StageFailed, match=message) as caught:
        by_linear(SplitAdapter("a", {"k": change(8, IN)}, {}), Layout((linear("x", 8, *parts),)), base)
    assert "adapter=merge" in str(caught.value)

"""The single changes, against plain numpy."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.checkpoint.changes import ChangedTensor, Dora, LowRank, Replacement, Shift
from pipeline.checkpoint.tensor import ArrayTensor

RANDOM = np.random.default_rng(0)
BASE = RANDOM.standard_normal((150, 40)).astype(np.float32)
LEFT = RANDOM.standard_normal((150, 3)).astype(np.float32)
RIGHT = RANDOM.standard_normal((3, 40)).astype(np.float32)


def test_low_rank() -> None:
    tensor = ChangedTensor(ArrayTensor(BASE), [LowRank(LEFT, RIGHT, 0.5)])
    np.testing.assert_allclose(tensor.read(), BASE + 0.5 * LEFT @ RIGHT, atol=1e-5)
    assert tensor.shape == BASE.shape and tensor.dtype == "F32" and tensor.read().dtype == np.float32


@pytest.mark.parametrize("rows", [(0, 1), (63, 65), (64, 128), (149, 150), (7, None), (20, 20)])
def test_bits_do_not_depend_on_the_slice(rows: tuple[int, int | None]) -> None:
    change = LowRank(LEFT, RIGHT, 0.3)
    whole = ChangedTensor(ArrayTensor(BASE), [change]).read()
    np.testing.assert_array_equal(ChangedTensor(ArrayTensor(BASE), [change]).read(*rows), whole[slice(*rows)])


@pytest.mark.parametrize("axis", [0, 1])
def test_dora_norm_is_of_the_tensor_before_any_adapter(axis: int) -> None:
    magnitude = RANDOM.standard_normal(BASE.shape[axis]).astype(np.float32)
    first, second = LowRank(LEFT, RIGHT, 1.0), LowRank(LEFT[::-1].copy(), RIGHT, 0.5)
    tensor = ChangedTensor(ArrayTensor(BASE), [first, Dora(second, magnitude, axis, ArrayTensor(BASE))])
    delta = 0.5 * LEFT[::-1] @ RIGHT
    norm = np.linalg.norm(BASE + delta, axis=1 - axis, keepdims=True)
    factor = magnitude[:, None] / norm if axis == 0 else magnitude[None, :] / norm
    np.testing.assert_allclose(tensor.read(), factor * (BASE + LEFT @ RIGHT + delta), rtol=1e-4, atol=1e-5)


def test_vectors() -> None:
    vector = np.arange(10, dtype=np.float32)
    tensor = ChangedTensor(ArrayTensor(vector), [Shift(np.ones(10, np.float32)), Shift(vector)])
    np.testing.assert_array_equal(tensor.read(2, 5), 2 * vector[2:5] + 1)
    replaced = ChangedTensor(ArrayTensor(vector), [Replacement(ArrayTensor(vector[::-1].copy())), Shift(vector)])
    np.testing.assert_array_equal(replaced.read(), np.full(10, 9, np.float32))


def test_what_changes_nothing() -> None:
    zero = np.zeros_like(LEFT)
    assert LowRank(zero, RIGHT, 1.0).is_zero and LowRank(LEFT, RIGHT, 0.0).is_zero and Shift(zero[:, 0]).is_zero
    assert not LowRank(LEFT, RIGHT, 1.0).is_zero and not Replacement(ArrayTensor(zero)).is_zero

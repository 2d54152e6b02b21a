"""Reading parts against the same reordering written in torch-like numpy on whole tensors."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.weights import parts
from pipeline.weights.layout import Part
from pipeline.weights.parts import read_rows
from tests.weights.helpers import checkpoint

RNG = np.random.default_rng(5)
W = RNG.standard_normal((48, 20)).astype(np.float32)
STACK = RNG.standard_normal((3, 48, 20)).astype(np.float32)
TENSORS = checkpoint(w=W, stack=STACK, half=W.astype(np.float16))


def half_rotation(weight: np.ndarray, heads: int, rotary: int) -> np.ndarray:
    """Interleaved to half rotation, as Hugging Face's conversion scripts do it: view, transpose, reshape."""
    per_head = weight.reshape(heads, -1, weight.shape[1])
    turned = per_head[:, :rotary].reshape(heads, rotary // 2, 2, -1).transpose(0, 2, 1, 3).reshape(heads, rotary, -1)
    return np.concatenate((turned, per_head[:, rotary:]), 1).reshape(weight.shape)


CASES = {
    "plain": (Part("w"), W),
    "rows": (Part("w", rows=(5, 30)), W[5:30]),
    "index": (Part("stack", index=2), STACK[2]),
    "index, rows": (Part("stack", index=1, rows=(24, 48)), STACK[1, 24:]),
    "transpose": (Part("w", transpose=True), W.T),
    "transpose, rows": (Part("w", transpose=True, rows=(3, 17)), W.T[3:17]),
    "index, transpose, rows": (Part("stack", index=0, transpose=True, rows=(3, 17)), STACK[0].T[3:17]),
    "deinterleave": (Part("w", deinterleave=(4, 12, 12)), half_rotation(W, 4, 12)),
    "partial rotary": (Part("w", deinterleave=(4, 12, 8)), half_rotation(W, 4, 8)),
    "rows, deinterleave": (Part("w", rows=(12, 36), deinterleave=(2, 12, 8)), half_rotation(W[12:36], 2, 8)),
    "scale": (Part("half", scale=0.5), W.astype(np.float16).astype(np.float32) * 0.5),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("step", [1, 7, 8, 1000])
def test_runs_of_rows_make_up_the_part(name: str, step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "SLAB_BYTES", 400)
    part, expected = CASES[name]
    runs = [read_rows((part,), TENSORS, a, min(a + step, len(expected))) for a in range(0, len(expected), step)]
    np.testing.assert_array_equal(np.concatenate(runs), expected)


def test_parts_are_concatenated_and_mixed_dtypes_widened() -> None:
    both = (Part("w", rows=(0, 10)), Part("half", rows=(40, 48)))
    rows = read_rows(both, TENSORS, 5, 14)
    assert rows.dtype == np.float32
    np.testing.assert_array_equal(rows, np.concatenate((W[5:10], W.astype(np.float16)[40:44].astype(np.float32))))


def test_a_single_part_keeps_its_dtype() -> None:
    assert read_rows((Part("half"),), TENSORS, 0, 4).dtype == np.float16

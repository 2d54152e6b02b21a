"""The pass from bfloat16 to packed codes: the same bytes as the steps in numpy, for any rows, pieces and threads."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pipeline.errors import StageFailed
from pipeline.weights import fused, kernels, plain
from pipeline.weights.matrix import quantise_rows
from pipeline.weights.plain import Packed
from pipeline.weights.precision import Precision
from tests.weights.helpers import reference, unpack

INFINITE = 0x7F80
"""bfloat16's exponent of infinities and NaN; below it every pattern is a number."""
RNG = np.random.default_rng(11)


def bfloat16(bits: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(bits, np.uint16).view(ml_dtypes.bfloat16)


def outcome(weights: np.ndarray, precision: Precision, loops: plain.Loops) -> Packed | str:
    """What is stored, or the line that refuses the weights."""
    try:
        return quantise_rows(weights, precision, "t", loops)
    except StageFailed as error:
        return str(error)


def check(weights: np.ndarray, precision: Precision) -> None:
    """Byte by byte against the steps in numpy, and both against the reference."""
    assert fused.fits(weights, precision)
    found, expected = (outcome(weights, precision, loops) for loops in (kernels, plain))
    if isinstance(expected, str) or isinstance(found, str):
        assert found == expected
        return
    assert found.codes.tobytes() == expected.codes.tobytes()
    assert (found.alpha.dtype, found.alpha.shape) == (expected.alpha.dtype, expected.alpha.shape)
    assert found.alpha.tobytes() == expected.alpha.tobytes()
    assert found.squared_error == pytest.approx(expected.squared_error, rel=1e-4, abs=1e-30)
    assert found.squared_norm == pytest.approx(expected.squared_norm, rel=1e-5)
    codes, scale, zero = reference(weights, precision)
    half = 2 ** (precision.bits - 1)
    np.testing.assert_array_equal(unpack(found.codes.tobytes(), weights.size, precision.bits) - half, codes.reshape(-1))
    stored = scale if precision.symmetric else np.stack((zero, scale), 1)
    np.testing.assert_array_equal(found.alpha.astype(np.float32), stored)


CASES = [(bits, symmetric) for bits in fused.BITS for symmetric in (False, True)]


@pytest.mark.parametrize(("bits", "symmetric"), CASES)
@pytest.mark.parametrize("block", [2, 16, 32, 34, 64, 128, 1536])
def test_blocks(bits: int, symmetric: bool, block: int) -> None:
    weights = RNG.standard_normal((24, 3 * block)).astype(ml_dtypes.bfloat16)
    check(weights, Precision(bits, block, symmetric))
    check((weights.astype(np.float32) * 0.02).astype(ml_dtypes.bfloat16), Precision(bits, block, symmetric))


@settings(max_examples=200, deadline=None)
@given(data=st.data(), case=st.sampled_from(CASES), top=st.sampled_from([0x10, 0x3380, 0x3F80, 0x4780, INFINITE - 1]))
def test_any_bits(data: st.DataObject, case: tuple[int, bool], top: int) -> None:
    """All patterns up to `top`, of both signs: zeros, subnormal numbers, scales below and beyond float16's range."""
    shape = (8 * data.draw(st.integers(1, 2)), 2 * data.draw(st.integers(1, 20)))
    size = data.draw(hnp.arrays(np.uint16, shape, elements=st.integers(0, top)))
    sign = data.draw(hnp.arrays(np.bool_, shape))
    weights = bfloat16(size | (sign.astype(np.uint16) << 15))
    norm = float(np.square(weights.astype(np.float64)).sum())
    if norm < 1e30:  # above it the sums of squares, in float32, are infinite in the one order or in the other
        check(weights, Precision(case[0], shape[1], case[1]))


@pytest.mark.parametrize(("bits", "symmetric"), CASES)
def test_every_magnitude(bits: int, symmetric: bool) -> None:
    """One block for each power of two, from bfloat16's least number to where scales leave float16."""
    for exponent in range(-133, 17):
        weights = np.ldexp(RNG.standard_normal((8, 64)), exponent).astype(ml_dtypes.bfloat16)
        check(weights, Precision(bits, 32, symmetric))


@pytest.mark.parametrize(("bits", "symmetric"), CASES)
@pytest.mark.parametrize("fill", [0.0, -0.0, 1.0, -3.5, 1e-7, -1e-40, 3008.0])
def test_constant_blocks(bits: int, symmetric: bool, fill: float) -> None:
    check(np.full((8, 64), fill, ml_dtypes.bfloat16), Precision(bits, 32, symmetric))


@pytest.mark.parametrize(("bits", "symmetric"), CASES)
def test_ties_go_to_the_even_code(bits: int, symmetric: bool) -> None:
    """Weights in the middle of two codes, on a grid of step 2."""
    middle = np.arange(64, dtype=np.float32) % (2 ** (bits - 1) - 1) * 2 + 1
    middle[0], middle[1] = 2 ** (bits - 1) * -2, 2 ** (bits - 1) * 2 - 2
    check(np.tile(middle, (8, 1)).astype(ml_dtypes.bfloat16), Precision(bits, 64, symmetric))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 1, 63, 64, 127])
def test_not_finite_is_refused(bad: float, place: int) -> None:
    weights = np.ones((8, 128), ml_dtypes.bfloat16)
    weights[3, place] = bad
    for bits, symmetric in CASES:
        with pytest.raises(StageFailed, match=r"'model\.up' holds NaN or infinite"):
            quantise_rows(weights, Precision(bits, 64, symmetric), "model.up", kernels)


def in_pieces(weights: np.ndarray, precision: Precision, ends: Sequence[int], threads: int) -> tuple[bytes, bytes]:
    """Codes and scales of row blocks that end before `ends`, quantised by `threads` threads."""
    blocks = np.split(weights, ends)
    with ThreadPoolExecutor(threads) as pool:
        packed = list(pool.map(lambda rows: quantise_rows(rows, precision, "t", kernels), blocks))
    return b"".join(one.codes.tobytes() for one in packed), b"".join(one.alpha.tobytes() for one in packed)


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("ends", [[], [8], [8, 16, 200], list(range(8, 256, 8))])
def test_threads_and_pieces_do_not_matter(threads: int, ends: list[int]) -> None:
    weights = np.random.default_rng(0).standard_normal((256, 512)).astype(ml_dtypes.bfloat16)
    whole = quantise_rows(weights, Precision(4, 64), "t", plain)
    assert in_pieces(weights, Precision(4, 64), ends, threads) == (whole.codes.tobytes(), whole.alpha.tobytes())


def test_rows_that_do_not_lie_together() -> None:
    weights = RNG.standard_normal((64, 256)).astype(ml_dtypes.bfloat16)
    for view in (weights[::2], weights[:, :128], weights[::-1]):
        check(view, Precision(4, 64))


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [
        (Precision(4, 64), np.float16),
        (Precision(4, 64), np.float32),
        (Precision(3, 64), ml_dtypes.bfloat16),
        (Precision(4, 63), ml_dtypes.bfloat16),
        (Precision(4, 64, scale_bits=32), ml_dtypes.bfloat16),
        (Precision(4, 64, algorithm="mse"), ml_dtypes.bfloat16),
    ],
)
def test_what_it_does_not_know_is_left_to_the_steps(precision: Precision, dtype: type) -> None:
    assert fused.nearest(np.ones((8, precision.block), dtype), precision) is None
    assert plain.nearest(np.ones((8, 64), ml_dtypes.bfloat16), Precision(4, 64)) is None

"""Quantise and pack: every width, block, dtype and extreme against ten lines of numpy."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pipeline.errors import StageFailed, UserError
from pipeline.weights import kernels, plain
from pipeline.weights.grids import quantiser
from pipeline.weights.matrix import half_rows, quantise_rows, widen
from pipeline.weights.plain import Loops
from pipeline.weights.precision import Precision
from tests.weights.helpers import reference, unpack

WIDTHS = (2, 3, 4, 5, 6, 7, 8)


def check(weights: np.ndarray, precision: Precision) -> None:
    for loops in (plain, kernels):
        check_loops(weights, precision, loops)


def check_loops(weights: np.ndarray, precision: Precision, loops: Loops) -> None:
    packed = quantise_rows(weights, precision, "t", loops)
    codes, scale, zero = reference(weights, precision)
    found = unpack(packed.codes.tobytes(), weights.size, precision.bits).reshape(codes.shape)
    np.testing.assert_array_equal(found - 2 ** (precision.bits - 1), codes)
    store = np.float16 if precision.scale_bits == 16 else np.float32
    expected = scale if precision.symmetric else np.stack((zero, scale), 1)
    assert packed.alpha.dtype == store
    np.testing.assert_array_equal(packed.alpha.astype(np.float32), expected)
    x = weights.astype(np.float64).reshape(codes.shape)
    restored = codes.astype(np.float32) * scale[:, None] + zero[:, None]
    assert packed.squared_error == pytest.approx(np.square(x - restored).sum(), rel=1e-4, abs=1e-30)
    assert packed.squared_norm == pytest.approx(np.square(x).sum(), rel=1e-6)


@pytest.mark.parametrize("bits", WIDTHS)
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("scale_bits", [16, 32])
@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16, np.float32])
def test_equals_reference(bits: int, symmetric: bool, scale_bits: int, dtype: type) -> None:
    weights = np.random.default_rng(bits).standard_normal((24, 192)).astype(dtype)
    for block in (16, 32, 64, 192):
        check(weights, Precision(bits, block, symmetric, scale_bits))


@pytest.mark.parametrize("bits", WIDTHS)
def test_more_than_one_chunk_and_odd_blocks(bits: int) -> None:
    weights = np.random.default_rng(0).standard_normal((40, 4095)).astype(np.float32)
    check(weights, Precision(bits, 63))


finite = st.floats(-1000, 1000, width=32, allow_subnormal=True)


@settings(max_examples=150, deadline=None)
@given(data=st.data(), bits=st.sampled_from(WIDTHS), symmetric=st.booleans(), scale_bits=st.sampled_from([16, 32]))
def test_any_values(data: st.DataObject, bits: int, symmetric: bool, scale_bits: int) -> None:
    block = data.draw(st.integers(1, 40))
    shape = (8 * data.draw(st.integers(1, 3)), block * data.draw(st.integers(1, 3)))
    weights = data.draw(hnp.arrays(np.float32, shape, elements=finite))
    check(weights, Precision(bits, block, symmetric, scale_bits))


@pytest.mark.parametrize("fill", [0.0, -0.0, 1.0, -3.5, 1e-7, 1e-40, 3000.7])
@pytest.mark.parametrize("symmetric", [False, True])
def test_constant_blocks(fill: float, symmetric: bool) -> None:
    check(np.full((8, 64), fill, np.float32), Precision(4, 32, symmetric))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16, np.float32])
@pytest.mark.parametrize("loops", [plain, kernels])
def test_not_finite_names_the_tensor(bad: float, dtype: type, loops: Loops) -> None:
    weights = np.ones((8, 128), dtype)
    weights[5, 77] = bad
    with pytest.raises(StageFailed, match=r"'model\.up' holds NaN or infinite"):
        quantise_rows(weights, Precision(4, 64), "model.up", loops)
    with pytest.raises(StageFailed, match=r"'model\.up' holds NaN or infinite"):
        half_rows(weights, "model.up")


def test_scale_beyond_float16_is_refused_not_stored() -> None:
    weights = np.full((8, 64), 1e7, np.float32)
    weights[:, 0] = -1e7
    with pytest.raises(StageFailed, match=r"scales of 'big' do not fit float16 → set quant.scale_bits=32"):
        quantise_rows(weights, Precision(4, 64), "big", plain)
    check(weights, Precision(4, 64, scale_bits=32))


def test_fp16_is_exact_and_refuses_overflow() -> None:
    weights = np.random.default_rng(0).standard_normal((8, 16)).astype(np.float16)
    packed = half_rows(weights.astype(np.float32), "t")
    assert packed.codes.tobytes() == weights.tobytes()
    assert packed.squared_error == 0
    with pytest.raises(StageFailed, match="'t' do not fit float16"):
        half_rows(np.full((8, 16), 70000, np.float32), "t")


def test_widening_is_exact() -> None:
    patterns = np.arange(65536, dtype=np.uint16).view(ml_dtypes.bfloat16)
    finite_patterns = patterns[np.isfinite(patterns.astype(np.float32))]
    assert widen(finite_patterns).tobytes() == finite_patterns.astype(np.float32).tobytes()


def test_unknown_algorithm_suggests_the_nearest() -> None:
    with pytest.raises(UserError, match=r"no quantisation algorithm 'rtm'\. Did you mean 'rtn'"):
        quantiser("rtm")

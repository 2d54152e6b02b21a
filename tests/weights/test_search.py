"""The searches: never worse than rounding, right weights, right lattice, any grouping of blocks."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.errors import StageFailed
from pipeline.weights import hqq, mse, plain, rtn, wmse
from pipeline.weights.precision import Precision
from pipeline.weights.quantiser import Blocks, Grid, blocks_of, encode

RNG = np.random.default_rng(9)
VALUES = RNG.standard_t(4, (200, 64)).astype(np.float32)
IMPORTANCE = np.exp(2 * RNG.standard_normal((200, 64))).astype(np.float32)
CASES = [Precision(bits, 64, symmetric) for bits in (2, 3, 4, 8) for symmetric in (False, True)]


def errors(values: np.ndarray, grid: Grid, precision: Precision) -> np.ndarray:
    codes = encode(values, grid, precision, plain, np.zeros(2)).astype(np.float32) - np.float32(precision.half)
    return np.asarray(values - (codes * grid.scale[:, None] + grid.zero[:, None]))


@pytest.mark.parametrize("precision", CASES)
def test_mse_beats_rounding_by_squared_error(precision: Precision) -> None:
    blocks = blocks_of(VALUES, plain)
    ours = np.square(errors(VALUES, mse.grid(blocks, precision), precision)).sum(1)
    theirs = np.square(errors(VALUES, rtn.grid(blocks, precision), precision)).sum(1)
    assert ours.sum() < 0.99 * theirs.sum()
    assert (ours <= 1.01 * theirs).mean() > 0.95


@pytest.mark.parametrize("precision", CASES)
def test_wmse_beats_mse_by_weighted_error_only(precision: Precision) -> None:
    blocks = blocks_of(VALUES, plain, IMPORTANCE)
    weighed, alike = (np.square(errors(VALUES, one.grid(blocks, precision), precision)) for one in (wmse, mse))
    assert (IMPORTANCE * weighed).sum() < 0.97 * (IMPORTANCE * alike).sum()
    assert alike.sum() < weighed.sum()


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_mse_is_close_to_the_best_of_a_fine_grid(bits: int) -> None:
    """Against every pair of ends on a grid of 60 × 60 with float32 scales: the search and its refit lose little."""
    precision, values = Precision(bits, 64), VALUES[:20]
    low, high, best = values.min(1), values.max(1), np.full(20, np.inf)
    middle = (low + high) / 2
    for a in np.linspace(0.3, 1, 60):
        for b in np.linspace(0.3, 1, 60):
            bottom = middle + a * (low - middle)
            scale = ((middle + b * (high - middle) - bottom) / precision.steps).astype(np.float32)
            grid = Grid(scale, (bottom + scale * precision.half).astype(np.float32))
            best = np.minimum(best, np.square(errors(values, grid, precision)).sum(1))
    ours = np.square(errors(values, mse.grid(blocks_of(values, plain), precision), precision)).sum()
    assert ours < 1.12 * best.sum()


def test_blocks_do_not_see_each_other() -> None:
    precision = Precision(4, 64)
    whole = wmse.grid(blocks_of(VALUES, plain, IMPORTANCE), precision)
    for first in (0, 1, 17, 199):
        some = slice(first, first + 5)
        part = wmse.grid(blocks_of(VALUES[some], plain, np.ascontiguousarray(IMPORTANCE[some])), precision)
        np.testing.assert_array_equal(part.scale, whole.scale[some])
        np.testing.assert_array_equal(part.zero, whole.zero[some])


def test_a_lattice_is_found_again() -> None:
    codes = RNG.integers(0, 16, (50, 32))
    codes[:, :2] = 0, 15
    scale = RNG.uniform(0.01, 0.02, (50, 1)).astype(np.float16).astype(np.float32)
    values = (codes * scale - 8 * scale).astype(np.float32)
    grid = mse.grid(blocks_of(values, plain), Precision(4, 32))
    assert np.abs(errors(values, grid, Precision(4, 32))).max() < 1e-5


@pytest.mark.parametrize("search", [mse, wmse, hqq])
@pytest.mark.parametrize("fill", [0.0, 1.0, -2.5])
def test_constant_blocks_survive(search: object, fill: float) -> None:
    values = np.full((3, 32), fill, np.float32)
    grid = search.grid(blocks_of(values, plain, np.ones_like(values)), Precision(4, 32))  # type: ignore[attr-defined]
    assert np.abs(errors(values, grid, Precision(4, 32))).max() <= 1e-3


def test_wmse_refuses_to_guess_importance() -> None:
    with pytest.raises(StageFailed, match=r"wmse needs the input statistics.*algorithm: mse"):
        wmse.grid(blocks_of(VALUES, plain), Precision(4, 64))


def test_hqq_lowers_the_typical_error() -> None:
    """Its aim is the l_p norm with p = 0.7, for which a few large errors may grow."""
    blocks, precision = blocks_of(VALUES, plain), Precision(4, 64)
    ours, theirs = (np.abs(errors(VALUES, one.grid(blocks, precision), precision)) for one in (hqq, rtn))
    assert np.power(ours, 0.7).sum() < 0.99 * np.power(theirs, 0.7).sum()


def test_blocks_carry_their_extremes() -> None:
    blocks: Blocks = blocks_of(VALUES, plain)
    np.testing.assert_array_equal(blocks.low, VALUES.min(1))
    np.testing.assert_array_equal(blocks.high, VALUES.max(1))

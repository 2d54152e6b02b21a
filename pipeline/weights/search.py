"""Search for each block's grid with the least (weighted) squared error.

Both ends of the block's range are drawn in, independently, by the factors SHRINK; each pair is refined by one
least-squares fit of scale and zero to the codes that it gives, rounded as storage will round it, and judged by the
error of the codes that are then nearest. Idea: the range search of MSE-calibrated quantisers, with llama.cpp's
importance matrix as the weight.

LANES blocks are searched side by side. The sums of one block are then added in the order of its weights on any CPU,
and the compiler still has lanes to fill its vectors with.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np
from numpy.typing import NDArray

from pipeline.weights.precision import Precision
from pipeline.weights.quantiser import Blocks, Grid, stored

F32 = NDArray[np.float32]
F = TypeVar("F", bound=Callable[..., Any])
LANES = 16
SHRINK = np.array([1.0, 0.92, 0.84, 0.76], np.float32)
SPLIT = {16: 2.0**13 + 1, 32: 0.0}  # Veltkamp's factor: keeps the eleven leading bits, as float16 does; 0 keeps all


def search(blocks: Blocks, precision: Precision) -> Grid:
    """The best grid of every block; `blocks.importance` weighs the errors (None: all alike)."""
    count, block = blocks.values.shape
    groups = -(-count // LANES)
    values = _lanes(blocks.values, groups)
    weight = None if blocks.importance is None else _lanes(blocks.importance, groups)
    found = np.empty((groups, 2, LANES), np.float32)
    weights = np.ones((1, block, LANES), np.float32) if weight is None else weight
    _search(
        values,
        weights,
        _lanes(blocks.low[:, None], groups)[:, 0],
        _lanes(blocks.high[:, None], groups)[:, 0],
        SHRINK,
        np.float32(precision.least),
        np.float32(precision.most),
        np.float32(SPLIT[precision.scale_bits]),
        precision.symmetric,
        found,
    )
    scale, zero = (np.ascontiguousarray(found[:, i]).reshape(-1)[:count] for i in range(2))
    return Grid(stored(scale, precision), stored(zero, precision))


def _lanes(values: F32, groups: int) -> F32:
    """[n, block] as [groups, block, LANES]; the last group is filled up with zeros."""
    count, block = values.shape
    padded = values
    if groups * LANES != count:
        padded = np.zeros((groups * LANES, block), np.float32)
        padded[:count] = values
    return np.ascontiguousarray(padded.reshape(groups, LANES, block).transpose(0, 2, 1))


def _compiled(**flags: Any) -> Callable[[F], F]:
    return cast(Callable[[F], F], numba.njit(nogil=True, error_model="numpy", cache=True, **flags))


@_compiled()
def _search(
    values: F32,
    weights: F32,
    low: F32,
    high: F32,
    shrink: F32,
    least: Any,
    most: Any,
    split: Any,
    symmetric: bool,
    found: F32,
) -> None:
    """values [groups, block, LANES]; weights the same or [1, block, LANES]; low, high [groups, LANES].

    found [groups, (scale, zero), LANES] is written.
    """
    lanes = values.shape[2]
    scale = np.empty(lanes, np.float32)
    zero = np.empty(lanes, np.float32)
    error = np.empty(lanes, np.float32)
    lowest = np.empty(lanes, np.float32)
    sums = np.empty((5, lanes), np.float32)
    for g in range(values.shape[0]):
        x = values[g]
        h = weights[g % weights.shape[0]]
        for i in range(lanes):
            lowest[i] = np.float32(np.inf)
        for a in range(shrink.size):
            for b in range(1 if symmetric else shrink.size):
                _start(low[g], high[g], shrink[a], shrink[b], least, most, symmetric, scale, zero)
                _refit(x, h, least, most, symmetric, sums, scale, zero)
                _round(split, scale, zero)
                _error(x, h, least, most, scale, zero, error)
                for i in range(lanes):
                    if error[i] < lowest[i]:
                        lowest[i] = error[i]
                        found[g, 0, i] = scale[i]
                        found[g, 1, i] = zero[i]


@_compiled()
def _start(
    low: F32, high: F32, a: Any, b: Any, least: Any, most: Any, symmetric: bool, scale: F32, zero: F32
) -> None:
    """The grid over the range with its ends drawn in by the factors a (lower) and b (upper) towards the middle."""
    for i in range(scale.size):
        if symmetric:
            scale[i] = a * max(-low[i], high[i]) / most
            zero[i] = np.float32(0)
        else:
            middle = np.float32(0.5) * (low[i] + high[i])
            bottom = middle + a * (low[i] - middle)
            scale[i] = (middle + b * (high[i] - middle) - bottom) / (most - least)
            zero[i] = bottom - least * scale[i]


@_compiled()
def _refit(x: F32, h: F32, least: Any, most: Any, symmetric: bool, sums: F32, scale: F32, zero: F32) -> None:
    """Weighted least squares of x on its codes; a block whose codes are all the same keeps its grid."""
    for i in range(scale.size):
        for j in range(5):
            sums[j, i] = np.float32(0)
    for k in range(x.shape[0]):
        for i in range(scale.size):
            divisor = scale[i] if scale[i] > np.float32(0) else np.float32(np.inf)
            q = min(max(np.rint((x[k, i] - zero[i]) / divisor), least), most)
            hq = h[k, i] * q
            sums[0, i] += h[k, i]
            sums[1, i] += hq
            sums[2, i] += hq * q
            sums[3, i] += h[k, i] * x[k, i]
            sums[4, i] += hq * x[k, i]
    for i in range(scale.size):
        if symmetric:
            if sums[4, i] > np.float32(0):
                scale[i] = sums[4, i] / sums[2, i]
        else:
            spread = sums[2, i] * sums[0, i] - sums[1, i] * sums[1, i]
            slope = sums[4, i] * sums[0, i] - sums[3, i] * sums[1, i]
            if spread > np.float32(1e-6) * sums[2, i] * sums[0, i] and slope > np.float32(0):
                scale[i] = slope / spread
                zero[i] = (sums[3, i] - scale[i] * sums[1, i]) / sums[0, i]


@_compiled()
def _round(split: Any, scale: F32, zero: F32) -> None:
    """To the eleven bits of float16 (exponents out of its range aside: `stored` deals with them)."""
    if split > np.float32(0):
        for i in range(scale.size):
            wide = split * scale[i]
            scale[i] = wide - (wide - scale[i])
            wide = split * zero[i]
            zero[i] = wide - (wide - zero[i])


@_compiled()
def _error(x: F32, h: F32, least: Any, most: Any, scale: F32, zero: F32, error: F32) -> None:
    for i in range(scale.size):
        error[i] = np.float32(0)
    for k in range(x.shape[0]):
        for i in range(scale.size):
            divisor = scale[i] if scale[i] > np.float32(0) else np.float32(np.inf)
            q = min(max(np.rint((x[k, i] - zero[i]) / divisor), least), most)
            miss = x[k, i] - (q * scale[i] + zero[i])
            error[i] += h[k, i] * miss * miss

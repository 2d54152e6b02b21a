"""What an algorithm is: from blocks of weights to one grid (scale and zero) per block.

An algorithm is one module of this package with a function `grid`, named in `QUANTISERS`. Codes are then always the
nearest ones on the grid as it is stored (rounding scale and zero first, choosing codes afterwards, lowers the error).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.weights.halves import rounded
from pipeline.weights.plain import Loops
from pipeline.weights.precision import Precision

F32 = NDArray[np.float32]
CHUNK = 1 << 18
"""Weights that pass through all loops together. Measured on SmolLM2, two threads: 2^15 takes 4.2 s, 2^17 to 2^19 1.8 s;
smaller pieces stay in a core's own cache, but the threads then spend their time handing over the interpreter's lock."""


@dataclass(frozen=True)
class Grid:
    """scale, zero: float32 [blocks], both exactly representable in the storage type; w = (code - half) scale + zero."""

    scale: F32
    zero: F32


@dataclass(frozen=True)
class Blocks:
    """Weights in blocks that share a scale. values: float32 [n, block]; low, high: float32 [n], each block's extremes.

    importance: float32 [n, block] or None, the weight of each squared error (E[x²] of the weight's input channel).
    """

    values: F32
    low: F32
    high: F32
    importance: F32 | None = None


class Quantiser(Protocol):
    """A search for the grid of each block."""

    def __call__(self, blocks: Blocks, precision: Precision) -> Grid:
        """One grid per block of `blocks`."""


def blocks_of(values: F32, loops: Loops, importance: F32 | None = None) -> Blocks:
    """`values` [n, block] with their extremes."""
    low, high = np.empty(len(values), np.float32), np.empty(len(values), np.float32)
    loops.extremes(values, low, high)
    return Blocks(values, low, high, importance)


def stored(values: NDArray[Any], precision: Precision) -> F32:
    """`values` after a round trip through the storage type of scales."""
    if precision.scale_bits == 32:
        return values.astype(np.float32)
    return rounded(np.ascontiguousarray(values, np.float32))


def encode(
    values: F32, grid: Grid, precision: Precision, loops: Loops, sums: NDArray[np.float64]
) -> NDArray[np.uint8]:
    """Nearest codes [n, block] on `grid`; adds squared error and squared norm to `sums` [2]."""
    codes = np.empty(values.shape, np.uint8)
    least, most, half = np.float32(precision.least), np.float32(precision.most), np.float32(precision.half)
    loops.encode(values, grid.scale, grid.zero, least, most, half, codes)
    loops.measure(values, grid.scale, grid.zero, half, codes, sums)
    return codes

"""What an algorithm is: from blocks of weights to one grid (scale and zero) per block.

An algorithm is one module of this package with a function `grid`, named in `QUANTISERS`. Codes are then always the
nearest ones on the grid as it is stored (rounding scale and zero first, choosing codes afterwards, lowers the error).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.weights import kernels
from pipeline.weights.precision import Precision

F32 = NDArray[np.float32]
CHUNK = 32768
"""Weights that pass through all loops together: 128 KiB of float32, so that they stay in a core's own cache."""


@dataclass(frozen=True)
class Grid:
    """scale, zero: float32 [blocks], both exactly representable in the storage type; w = (code - half) scale + zero."""

    scale: F32
    zero: F32


class Quantiser(Protocol):
    """importance: float32 [blocks, block] or None, the weight of each squared error (E[x²] of its input channel)."""

    def __call__(self, blocks: F32, precision: Precision, importance: F32 | None) -> Grid:
        """The grid of each row of `blocks` [n, block]."""


def stored(values: NDArray[Any], precision: Precision) -> F32:
    """`values` after a round trip through the storage type of scales."""
    if precision.scale_bits == 32:
        return values.astype(np.float32)
    with np.errstate(over="ignore"):
        return values.astype(np.float16).astype(np.float32)


def encode(blocks: F32, grid: Grid, precision: Precision, sums: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Nearest codes [n, block] on `grid`; adds squared error and squared norm to `sums` [2]."""
    codes = np.empty(blocks.shape, np.uint8)
    half = float(precision.half)
    kernels.encode(blocks, grid.scale, grid.zero, float(precision.least), float(precision.most), half, codes)
    kernels.measure(blocks, grid.scale, grid.zero, half, codes, sums)
    return codes

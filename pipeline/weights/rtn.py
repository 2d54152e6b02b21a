"""Round to nearest: the grid spans each block from its least to its greatest weight."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.weights import kernels
from pipeline.weights.precision import Precision
from pipeline.weights.quantiser import Grid, stored

F32 = NDArray[np.float32]


def grid(blocks: F32, precision: Precision, importance: F32 | None = None) -> Grid:
    """asymmetric: scale = (max - min) / (2^bits - 1); symmetric: scale = max|w| / (2^(bits-1) - 1), zero = 0."""
    low = np.empty(len(blocks), np.float32)
    high = np.empty(len(blocks), np.float32)
    kernels.extremes(blocks, low, high)
    if precision.symmetric:
        scale = stored(np.maximum(-low, high) / np.float32(precision.most), precision)
        return Grid(scale, np.zeros_like(scale))
    scale = stored((high - low) / np.float32(precision.steps), precision)
    return Grid(scale, stored(low + scale * np.float32(precision.half), precision))

"""Round to nearest: the grid spans each block from its least to its greatest weight."""

from __future__ import annotations

import numpy as np

from pipeline.weights.precision import Precision
from pipeline.weights.quantiser import Blocks, Grid, stored


def grid(blocks: Blocks, precision: Precision) -> Grid:
    """asymmetric: scale = (max - min) / (2^bits - 1); symmetric: scale = max|w| / (2^(bits-1) - 1), zero = 0."""
    if precision.symmetric:
        largest = np.maximum(-blocks.low, blocks.high) + np.float32(0)  # of zeros -0 on one CPU, 0 on another
        scale = stored(largest / np.float32(precision.most), precision)
        return Grid(scale, np.zeros_like(scale))
    scale = stored((blocks.high - blocks.low) / np.float32(precision.steps), precision)
    return Grid(scale, stored(blocks.low + scale * np.float32(precision.half), precision))

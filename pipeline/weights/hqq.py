"""Half-quadratic quantisation (Badri and Shaji 2023): zeros that let a few weights err much so that most err little.

Alternates between the outliers e of the residual, shrunk under an l_p norm with p < 1, and the zero that fits the rest:
    e ← shrink(w - ŵ),  zero ← mean(w - e - q · scale).
The scale stays that of round-to-nearest. Needs no calibration; asymmetric only (it tunes nothing but zeros).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.weights import rtn
from pipeline.weights.precision import Precision
from pipeline.weights.quantiser import Blocks, Grid, stored

F32 = NDArray[np.float32]
ITERATIONS = 20
NORM = np.float32(0.7)
BETA = np.float32(10.0)  # as in the paper: weight of the quadratic term, growing by KAPPA at each step
KAPPA = np.float32(1.01)


def grid(blocks: Blocks, precision: Precision) -> Grid:
    """The zero with the least mean |error| among those visited, per block."""
    start = rtn.grid(blocks, precision)
    if precision.symmetric:
        return start
    scale, zero, beta = start.scale, start.zero, BETA
    best, lowest = zero, np.full(len(zero), np.inf, np.float32)
    for _ in range(ITERATIONS):
        codes = _codes(blocks.values, scale, zero, precision)
        residual = blocks.values - codes * scale[:, None] - zero[:, None]
        error = np.abs(residual).mean(1)
        better = error < lowest
        best, lowest = np.where(better, zero, best), np.where(better, error, lowest)
        outliers = _shrink(residual, beta)
        zero = stored((blocks.values - outliers - codes * scale[:, None]).mean(1), precision)
        beta *= KAPPA
    return Grid(scale, best)


def _codes(values: F32, scale: F32, zero: F32, precision: Precision) -> F32:
    """Signed codes as float32 [n, block]."""
    divisor = np.where(scale > 0, scale, np.float32(np.inf))
    steps = np.rint((values - zero[:, None]) / divisor[:, None])
    return np.clip(steps, np.float32(precision.least), np.float32(precision.most))


def _shrink(residual: F32, beta: np.float32) -> F32:
    """The generalised soft threshold: sign(r) · max(|r| - |r|^(p-1) / beta, 0)."""
    size = np.abs(residual)
    with np.errstate(divide="ignore"):  # a residual of 0 is kept at 0
        kept = np.maximum(size - np.exp((NORM - np.float32(1)) * np.log(size)) / beta, np.float32(0))
    return np.sign(residual) * kept

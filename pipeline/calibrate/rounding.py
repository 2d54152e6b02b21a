"""What becomes of some rows of a linear when they are rounded: for searches that try many ways on few rows."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.checkpoint.tensor import Checkpoint
from pipeline.weights import plain
from pipeline.weights.layout import Linear
from pipeline.weights.parts import read_rows
from pipeline.weights.precision import Precision
from pipeline.weights.quantiser import blocks_of, encode
from pipeline.weights.search import search

F32 = NDArray[np.float32]
WHOLE = 1 << 24
"""Weights up to which a matrix is read whole, since seeking each row of it takes longer."""


def sampled(linear: Linear, checkpoint: Checkpoint, count: int) -> tuple[F32, NDArray[np.intp]]:
    """At most `count` rows of `linear`, evenly spread, float32 [rows, in], and which they are."""
    rows = np.unique(np.linspace(0, linear.out_features - 1, min(count, linear.out_features)).astype(int))
    if linear.out_features * linear.in_features < WHOLE:
        return read_rows(linear.parts, checkpoint, 0, linear.out_features).astype(np.float32)[rows], rows
    return np.concatenate([read_rows(linear.parts, checkpoint, r, r + 1) for r in rows]).astype(np.float32), rows


def nearest(weights: F32, importance: F32, precision: Precision) -> F32:
    """`weights` [rows, in] on the grids of wmse. importance: E[x²] of the inputs, [in]."""
    blocks = weights.reshape(-1, precision.block)
    weight = np.ascontiguousarray(np.broadcast_to(importance + np.float32(1e-12), weights.shape))
    grid = search(blocks_of(blocks, plain, weight.reshape(blocks.shape)), precision)
    codes = encode(blocks, grid, precision, plain, np.zeros(2))
    steps = codes.astype(np.float32) - np.float32(precision.half)
    return (steps * grid.scale[:, None] + grid.zero[:, None]).reshape(weights.shape)

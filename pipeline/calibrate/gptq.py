"""GPTQ (Frantar et al. 2022) on static grids: each column's rounding error is carried over to the columns to come.

The grid of every block is found beforehand by the weighted search (wmse), so scales stay one per block whatever the
order of columns; with act-order the columns of the most active inputs go first, while most others can still make up for
them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import numba
import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.errors import StageFailed
from pipeline.weights import plain
from pipeline.weights.precision import Precision
from pipeline.weights.quantiser import blocks_of
from pipeline.weights.wmse import grid as weighted_grid

F32 = NDArray[np.float32]
F = TypeVar("F", bound=Callable[..., Any])
COLUMNS = 64
"""Columns whose errors are fed back one by one before the rest of the matrix is updated by one product."""
DAMPING = (0.01, 0.1, 1.0)
"""Shares of the mean diagonal that are added to it; the next one only if the matrix is not positive definite."""


@dataclass(frozen=True)
class Solution:
    """codes: uint8 [out, in]; scale, zero: float32 [out, in / block]; w = (code - half) scale + zero."""

    codes: NDArray[np.uint8]
    scale: F32
    zero: F32

    def dequantised(self, precision: Precision) -> F32:
        """float32 [out, in]."""
        steps = self.codes.astype(np.float32) - np.float32(precision.half)
        blocks = steps.reshape(len(steps), -1, precision.block)
        return (blocks * self.scale[:, :, None] + self.zero[:, :, None]).reshape(steps.shape)


def solve(weights: F32, hessian: F32, precision: Precision, name: str, act_order: bool = True) -> Solution:
    """Quantise `weights` [out, in] against `hessian` [in, in] = mean of x xᵀ.

    Raises StageFailed, naming the linear, if the Hessian is not finite or not positive definite even when damped.
    """
    if not np.isfinite(hessian).all():
        raise StageFailed(f"calibration drives '{name}' to infinity", "quantise it with a rule: algorithm: mse")
    diagonal = np.ascontiguousarray(hessian.diagonal())
    scale, zero = _grids(weights, diagonal, precision)
    order = np.argsort(-diagonal, kind="stable") if act_order else np.arange(len(diagonal))
    factor = _inverse_factor(hessian[np.ix_(order, order)], name)
    codes = np.empty(weights.shape, np.uint8)
    codes[:, order] = _sweep(weights[:, order].copy(), factor, order // precision.block, scale, zero, precision)
    return Solution(codes, scale, zero)


def _grids(weights: F32, diagonal: F32, precision: Precision) -> tuple[F32, F32]:
    blocks = weights.reshape(-1, precision.block)
    importance = np.ascontiguousarray(np.broadcast_to(diagonal, weights.shape)).reshape(blocks.shape)
    found = weighted_grid(blocks_of(blocks, plain, importance), precision)
    return found.scale.reshape(len(weights), -1), found.zero.reshape(len(weights), -1)


def _inverse_factor(hessian: F32, name: str) -> F32:
    """The upper Cholesky factor of the damped Hessian's inverse."""
    matrix = torch.from_numpy(hessian)
    mean = float(matrix.diagonal().mean())
    for share in DAMPING:
        damped = matrix.clone()  # an identity matrix would be another third of a gigabyte at 8,960 inputs
        damped.diagonal().add_(share * mean + 1e-12)
        lower, failed = torch.linalg.cholesky_ex(damped)
        if failed:
            continue
        upper, failed = torch.linalg.cholesky_ex(torch.cholesky_inverse(lower), upper=True)
        if not failed:
            return np.ascontiguousarray(upper.numpy())
    raise StageFailed(f"the Hessian of '{name}' is not positive definite", "use more calibration text")


def _sweep(
    weights: F32, factor: F32, block_of: NDArray[np.intp], scale: F32, zero: F32, precision: Precision
) -> NDArray[np.uint8]:
    """Codes of the columns in the order given; `weights` is used up."""
    codes = np.empty(weights.shape, np.uint8)
    least, most, half = np.float32(precision.least), np.float32(precision.most), np.float32(precision.half)
    rest, upper = torch.from_numpy(weights), torch.from_numpy(factor)
    for start in range(0, weights.shape[1], COLUMNS):
        stop = min(start + COLUMNS, weights.shape[1])
        errors = np.empty((len(weights), stop - start), np.float32)
        _columns(weights, factor, block_of, scale, zero, start, stop, least, most, half, codes, errors)
        rest[:, stop:] -= torch.from_numpy(errors) @ upper[start:stop, stop:]
    return codes


def _compiled(function: F) -> F:
    return cast(F, numba.njit(nogil=True, error_model="numpy", cache=True)(function))


@_compiled
def _columns(
    weights: F32,
    factor: F32,
    block_of: NDArray[np.intp],
    scale: F32,
    zero: F32,
    start: int,
    stop: int,
    least: Any,
    most: Any,
    half: Any,
    codes: NDArray[np.uint8],
    errors: F32,
) -> None:
    """Round columns [start, stop) one by one, each error spread over the later ones of them; errors [out, columns]."""
    for row in range(weights.shape[0]):
        for j in range(start, stop):
            step = scale[row, block_of[j]]
            origin = zero[row, block_of[j]]
            divisor = step if step > np.float32(0) else np.float32(np.inf)
            q = min(max(np.rint((weights[row, j] - origin) / divisor), least), most)
            codes[row, j] = np.uint8(np.int32(q + half))
            error = (weights[row, j] - (q * step + origin)) / factor[j, j]
            errors[row, j - start] = error
            for k in range(j + 1, stop):
                weights[row, k] -= error * factor[j, k]

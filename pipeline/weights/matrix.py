"""One run of rows of a linear: widened to float32, cut into blocks, quantised and packed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from pipeline.errors import StageFailed, UserError, nearest
from pipeline.weights import kernels, packing, rtn
from pipeline.weights.precision import FP16, Precision
from pipeline.weights.quantiser import CHUNK, Quantiser, encode

F32 = NDArray[np.float32]
QUANTISERS: dict[str, Quantiser] = {"rtn": rtn.grid}


@dataclass(frozen=True)
class Packed:
    """codes: uint8 bytes as in the file; alpha: stored scales (and zeros); the sums are over the rows given."""

    codes: NDArray[np.uint8]
    alpha: NDArray[np.floating]
    squared_error: float
    squared_norm: float


def quantiser(name: str) -> Quantiser:
    """The algorithm called `name`; UserError with the nearest match if there is none."""
    if name not in QUANTISERS:
        raise UserError(f"no quantisation algorithm '{name}'.{nearest(name, QUANTISERS)}", "see docs/quantisation.md")
    return QUANTISERS[name]


def quantise_rows(rows: NDArray[Any], precision: Precision, tensor: str) -> Packed:
    """Quantise and pack `rows` [n, in] (bfloat16, float16 or float32); `tensor` is named where a weight is not finite.

    The caller sees to it that n × in is a multiple of 8 unless these are the matrix's last rows.
    """
    if precision.bits == FP16:
        return _halves(rows, tensor)
    flat = rows.reshape(-1)
    grid_of = quantiser(precision.algorithm)
    step = -(-CHUNK // (8 * precision.block)) * 8 * precision.block
    codes: list[NDArray[np.uint8]] = []
    alpha: list[NDArray[np.floating]] = []
    sums = np.zeros(2)
    for start in range(0, flat.size, step):
        blocks = widen(flat[start : start + step]).reshape(-1, precision.block)
        with np.errstate(over="ignore", invalid="ignore"):  # refused below, with the tensor's name
            grid = grid_of(blocks, precision, None)
        codes.append(packing.pack(encode(blocks, grid, precision, sums), precision.bits))
        alpha.append(packing.alpha(grid.scale, grid.zero, precision))
    packed = Packed(np.concatenate(codes), np.concatenate(alpha), float(sums[0]), float(sums[1]))
    _check(packed, tensor)
    return packed


def widen(values: NDArray[Any]) -> F32:
    """`values` [n] (bfloat16, float16, float32) as float32, exactly."""
    if values.dtype != ml_dtypes.bfloat16:
        return np.ascontiguousarray(values, np.float32)
    out = np.empty(values.shape, np.float32)
    kernels.widen_bf16(values.view(np.uint16), out.view(np.uint32))
    return out


def _check(packed: Packed, tensor: str) -> None:
    """Raise StageFailed for weights that are not finite or scales that do not fit the storage type."""
    if not np.isfinite(packed.squared_norm):
        raise StageFailed(f"'{tensor}' holds NaN or infinite weights", "the checkpoint is damaged: fetch it again")
    if not np.isfinite(packed.alpha).all():
        raise StageFailed(f"the scales of '{tensor}' do not fit float16", "set quant.scale_bits=32")


def _halves(rows: NDArray[Any], tensor: str) -> Packed:
    """`rows` as float16 bytes."""
    wide = rows.astype(np.float32)
    if not np.isfinite(wide).all():
        raise StageFailed(f"'{tensor}' holds NaN or infinite weights", "the checkpoint is damaged: fetch it again")
    with np.errstate(over="ignore"):
        halves = rows.astype(np.float16)
    if not np.isfinite(halves).all():
        raise StageFailed(f"weights of '{tensor}' do not fit float16 (above 65,504)", "store it in 8 bits instead")
    miss = wide - halves.astype(np.float32)
    norms = [float(np.sum(np.square(v, dtype=np.float64))) for v in (miss, wide)]
    return Packed(halves.reshape(-1).view(np.uint8), np.empty(0, np.float16), norms[0], norms[1])

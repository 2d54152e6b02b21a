"""One run of rows of a linear: widened to float32, cut into blocks, quantised and packed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from pipeline.checkpoint.tensor import Checkpoint
from pipeline.errors import StageFailed
from pipeline.weights import packing
from pipeline.weights.algorithms import LATTICES, SOLVERS
from pipeline.weights.folds import Folds
from pipeline.weights.grids import quantiser
from pipeline.weights.layout import Linear
from pipeline.weights.parts import part_names, read_rows
from pipeline.weights.plain import Loops, Packed
from pipeline.weights.precision import FP16, Precision
from pipeline.weights.quantiser import CHUNK, blocks_of, encode, stored

F32 = NDArray[np.float32]


class Lattice(Protocol):
    """Codes that need no choosing: w = (code - 2^(bits-1)) scale + zero."""

    def read_codes(self, start: int = 0, stop: int | None = None) -> NDArray[np.uint8]:
        """uint8 [rows, in]."""

    def read_scales(self, start: int = 0, stop: int | None = None) -> tuple[F32, F32]:
        """(scales, zeros), float32 [rows, in / block] each."""


@dataclass(frozen=True)
class Encoder:
    """Turns any rows of any linear into bytes. Threads may share it.

    importance: by linear, float32 [in_features], the mean square of each input over the calibration text.
    lattices: by linear, codes and scales that were chosen elsewhere. folds: scales between linears and before them.
    """

    checkpoint: Checkpoint
    loops: Loops
    importance: Mapping[str, F32] = field(default_factory=dict)
    lattices: Mapping[str, Lattice] = field(default_factory=dict)
    folds: Folds = field(default_factory=Folds)

    def rows(self, linear: Linear, precision: Precision, start: int, stop: int) -> Packed:
        """Rows [start, stop) of `linear`. Raises StageFailed for weights that are not finite or do not fit."""
        rows = self.folds.rows(linear.name, read_rows(linear.parts, self.checkpoint, start, stop), start, stop)
        tensor = part_names(linear.parts)
        if precision.bits == FP16:
            return half_rows(rows, tensor)
        if precision.algorithm in (*SOLVERS, *LATTICES):
            if linear.name not in self.lattices:
                raise StageFailed(
                    f"{precision.algorithm} has no solution for '{linear.name}', which calibration does not reach",
                    "add a rule for it with algorithm: mse",
                )
            return lattice_rows(rows, self.lattices[linear.name], precision, self.loops, tensor, start, stop)
        return quantise_rows(rows, precision, tensor, self.loops, self.importance.get(linear.name))


def quantise_rows(
    rows: NDArray[Any], precision: Precision, tensor: str, loops: Loops, importance: F32 | None = None
) -> Packed:
    """Quantise and pack `rows` [n, in] (bfloat16, float16 or float32); `tensor` is named where a weight is not finite.

    importance [in] or None. n × in must be a multiple of 8 unless these are the matrix's last rows.
    """
    packed = loops.nearest(rows, precision) or _by_steps(rows, precision, loops, importance)
    _check(packed, tensor)
    return packed


def _by_steps(rows: NDArray[Any], precision: Precision, loops: Loops, importance: F32 | None) -> Packed:
    flat = rows.reshape(-1)
    search = quantiser(precision.algorithm)
    sums = np.zeros(2)
    pieces = []
    for part in _chunks(rows.shape, precision.block):
        values = widen(flat[part]).reshape(-1, precision.block)
        weight = None if importance is None else _importance(importance, part, precision.block)
        with np.errstate(over="ignore", invalid="ignore"):  # refused later, with the tensor's name
            grid = search(blocks_of(values, loops, weight), precision)
        codes = encode(values, grid, precision, loops, sums)
        pieces.append((packing.pack(codes, precision.bits), packing.alpha(grid.scale, grid.zero, precision)))
    codes, alpha = (np.concatenate(column) for column in zip(*pieces, strict=True))
    return Packed(codes, alpha, float(sums[0]), float(sums[1]))


def lattice_rows(
    rows: NDArray[Any], lattice: Lattice, precision: Precision, loops: Loops, tensor: str, start: int, stop: int
) -> Packed:
    """Pack rows [start, stop) of `lattice`; their error is measured against `rows`, the weights themselves."""
    codes = np.ascontiguousarray(lattice.read_codes(start, stop)).reshape(-1, precision.block)
    scale, zero = (np.ascontiguousarray(values, np.float32).reshape(-1) for values in lattice.read_scales(start, stop))
    sums = np.zeros(2)
    values = widen(rows.reshape(-1)).reshape(codes.shape)
    with np.errstate(over="ignore", invalid="ignore"):  # refused below, with the tensor's name
        scale, zero = stored(scale, precision), stored(zero, precision)
        alpha = packing.alpha(scale, zero, precision)
        loops.measure(values, scale, zero, np.float32(precision.half), codes, sums)
    packed = Packed(packing.pack(codes, precision.bits), alpha, float(sums[0]), float(sums[1]))
    _check(packed, tensor)
    return packed


def _chunks(shape: tuple[int, ...], block: int) -> list[slice]:
    """Runs of about CHUNK weights of whole blocks, eight at a time, so that codes end on whole bytes."""
    size = int(np.prod(shape))
    step = -(-CHUNK // (8 * block)) * 8 * block
    return [slice(start, min(start + step, size)) for start in range(0, size, step)]


def _importance(importance: F32, part: slice, block: int) -> F32:
    """The importance of the weights in `part` of the flattened rows, as [blocks, block]."""
    blocks = importance.reshape(-1, block)
    first = part.start // block
    return np.asarray(blocks[np.arange(first, part.stop // block) % len(blocks)])


def widen(values: NDArray[Any]) -> F32:
    """`values` [n] (bfloat16, float16, float32) as float32, exactly."""
    if values.dtype != ml_dtypes.bfloat16:
        return np.ascontiguousarray(values, np.float32)
    out = np.empty(values.shape, np.float32)
    bits = out.view(np.uint32)  # the upper half of a float32 is a bfloat16; ml_dtypes' own cast is many times slower
    np.left_shift(values.view(np.uint16), np.uint32(16), out=bits, dtype=np.uint32, casting="unsafe")
    return out


def finite(values: F32, tensor: str) -> F32:
    """`values`, or StageFailed if one of them is not finite."""
    if not np.isfinite(values).all():
        raise _damaged(tensor)
    return values


def _damaged(tensor: str) -> StageFailed:
    return StageFailed(f"'{tensor}' holds NaN or infinite weights", "the checkpoint is damaged: fetch it again")


def _check(packed: Packed, tensor: str) -> None:
    """Raise StageFailed for weights that are not finite or scales that do not fit the storage type."""
    if not np.isfinite(packed.squared_norm):
        raise _damaged(tensor)
    if not _stored_finite(packed.alpha):
        raise StageFailed(f"the scales of '{tensor}' do not fit float16", "set quant.scale_bits=32")


def _stored_finite(alpha: NDArray[np.floating]) -> bool:
    if alpha.dtype != np.float16:
        return bool(np.isfinite(alpha).all())
    exponent = np.uint16(0x7C00)  # all ones: infinite or NaN; numpy's own test takes each half by itself
    return not (alpha.view(np.uint16) & exponent == exponent).any()


def half_rows(rows: NDArray[Any], tensor: str) -> Packed:
    """`rows` as float16 bytes."""
    wide = finite(rows.astype(np.float32), tensor)
    with np.errstate(over="ignore"):
        halves = rows.astype(np.float16)
    if not np.isfinite(halves).all():
        raise StageFailed(f"weights of '{tensor}' do not fit float16 (above 65,504)", "store it in 8 bits instead")
    miss = wide - halves.astype(np.float32)
    norms = [float(np.sum(np.square(v, dtype=np.float64))) for v in (miss, wide)]
    return Packed(halves.reshape(-1).view(np.uint8), np.empty(0, np.float16), norms[0], norms[1])

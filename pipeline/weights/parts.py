"""Reading the rows of a linear or a table from the parts that it is made of, a run of rows at a time.

The fields of a part apply in this order: index, transpose, rows, deinterleave, scale. Only the rows asked for are read,
except that a stacked matrix [experts, out, in] is read one whole expert at a time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.checkpoint.tensor import Checkpoint, LazyTensor
from pipeline.errors import StageFailed
from pipeline.weights.layout import Part

SLAB_BYTES = 16 << 20
"""A transposed matrix is read in slabs of at most this size, of which only the wanted columns are kept."""


def part_rows(part: Part, checkpoint: Checkpoint) -> int:
    """Number of output rows that `part` contributes."""
    if part.rows is not None:
        return part.rows[1] - part.rows[0]
    return _matrix_shape(part, checkpoint)[0]


def part_names(parts: Sequence[Part]) -> str:
    """The tensors behind `parts`, for messages."""
    return ", ".join(dict.fromkeys(part.tensor for part in parts))


def check_parts(name: str, rows: int, columns: int | None, parts: Sequence[Part], checkpoint: Checkpoint) -> None:
    """Raise StageFailed unless `parts` exist and make up [rows, columns] (or [rows] where columns is None)."""
    for part in parts:
        if part.tensor not in checkpoint:
            raise StageFailed(f"'{name}' needs the tensor '{part.tensor}', which the checkpoint does not have")
        shape = _matrix_shape(part, checkpoint)
        if shape[1:] != (() if columns is None else (columns,)):
            raise StageFailed(f"'{part.tensor}' has rows of shape {shape[1:]}; '{name}' needs {columns} columns")
    found = sum(part_rows(part, checkpoint) for part in parts)
    if found != rows:
        raise StageFailed(f"'{name}' should have {rows} rows, but {part_names(parts)} hold {found}")


def read_rows(parts: Sequence[Part], checkpoint: Checkpoint, start: int, stop: int) -> NDArray[Any]:
    """Rows [start, stop) of the concatenated parts, in the source's dtype (float32 where parts differ or scale)."""
    pieces = [_part(part, checkpoint, a, b) for part, a, b in overlaps(parts, checkpoint, start, stop)]
    if len(pieces) == 1:
        return pieces[0]
    return np.concatenate([piece.astype(np.float32) for piece in pieces] if _mixed(pieces) else pieces)


def _mixed(pieces: Sequence[NDArray[Any]]) -> bool:
    return len({piece.dtype for piece in pieces}) > 1


def overlaps(
    parts: Sequence[Part], checkpoint: Checkpoint, start: int, stop: int
) -> Iterator[tuple[Part, int, int]]:
    """The parts that hold rows [start, stop), each with its own range of them."""
    first = 0
    for part in parts:
        size = part_rows(part, checkpoint)
        a, b = max(start - first, 0), min(stop - first, size)
        if a < b:
            yield part, a, b
        first += size


def _matrix_shape(part: Part, checkpoint: Checkpoint) -> tuple[int, ...]:
    """Shape after index and transpose; a convolution's kernel [out, in, …] counts as a matrix [out, in · …]."""
    shape = tuple(checkpoint[part.tensor].shape)
    shape = shape if part.index is None else shape[1:]
    if len(shape) > 2:
        shape = (shape[0], math.prod(shape[1:]))
    return shape[::-1] if part.transpose else shape


def _part(part: Part, checkpoint: Checkpoint, start: int, stop: int) -> NDArray[Any]:
    """Rows [start, stop) of one part."""
    if part.deinterleave is None:
        rows = _matrix(part, checkpoint, start, stop)
    else:
        head_dim = part.deinterleave[1]
        first, last = start - start % head_dim, stop + -stop % head_dim
        heads = _matrix(part, checkpoint, first, last)
        rows = heads[deinterleaved(np.arange(start, stop), head_dim, part.deinterleave[2]) - first]
    return rows if part.scale == 1.0 else rows.astype(np.float32) * np.float32(part.scale)


def deinterleaved(rows: NDArray[np.intp], head_dim: int, rotary_dim: int) -> NDArray[np.intp]:
    """The source rows of output `rows`: within rotary_dim the even ones first, then the odd ones, head by head."""
    head, row = rows - rows % head_dim, rows % head_dim
    half = rotary_dim // 2
    source = np.where(row < half, 2 * row, np.where(row < rotary_dim, 2 * (row - half) + 1, row))
    return np.asarray(head + source)


def source_rows(part: Part, count: int) -> NDArray[np.intp]:
    """For each of the part's `count` output rows the row of the tensor that it is read from."""
    rows = np.arange(count)
    if part.deinterleave is not None:
        rows = deinterleaved(rows, part.deinterleave[1], part.deinterleave[2])
    return rows + (part.rows[0] if part.rows else 0)


def _matrix(part: Part, checkpoint: Checkpoint, start: int, stop: int) -> NDArray[Any]:
    """Rows [start, stop) of the part before deinterleave and scale."""
    offset = part.rows[0] if part.rows else 0
    start, stop = start + offset, stop + offset
    tensor = checkpoint[part.tensor]
    if part.index is not None:
        matrix = tensor.read(part.index, part.index + 1)[0]
        return np.ascontiguousarray((matrix.T if part.transpose else matrix)[start:stop])
    if part.transpose:
        return _columns(tensor, start, stop)
    rows = np.asarray(tensor.read(start, stop))
    return rows.reshape(len(rows), -1) if rows.ndim > 2 else rows


def _columns(tensor: LazyTensor, start: int, stop: int) -> NDArray[Any]:
    """Columns [start, stop) of a matrix [in, out] as rows [stop - start, in]."""
    size, width = tensor.shape
    slab = max(1, SLAB_BYTES // (4 * width))
    pieces = [np.array(tensor.read(a, min(a + slab, size))[:, start:stop].T) for a in range(0, size, slab)]
    return np.ascontiguousarray(np.concatenate(pieces, axis=1))

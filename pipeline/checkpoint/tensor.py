"""Lazily read tensors. A checkpoint is a mapping from a Hugging Face name to one of them; overlays wrap checkpoints."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import ml_dtypes
import numpy as np
import numpy.typing as npt

from pipeline.errors import StageFailed

Array = npt.NDArray[Any]


class LazyTensor(Protocol):
    """A tensor that is read by row slices. dtype is the source's own name for it ("BF16", "Q4_1", …)."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Axes, outermost first; () for a scalar."""

    @property
    def dtype(self) -> str:
        """The format's own name: BF16, F16, F32, Q4_1, …"""

    def read(self, start: int = 0, stop: int | None = None) -> Array:
        """Entries [start, stop) of the first axis as bfloat16, float16 or float32; a quantised source as float32."""


Checkpoint = Mapping[str, LazyTensor]


@runtime_checkable
class QuantisedTensor(LazyTensor, Protocol):
    """A 2-D tensor [out, in] whose source is already a lattice that the engine can hold: w = code·scale + zero.

    bits: code width. block: inputs per scale; divides the in axis. symmetric: zero is 0 and no code is out of the
    signed range, so zeros need not be stored.
    """

    @property
    def bits(self) -> int: ...

    @property
    def block(self) -> int: ...

    @property
    def symmetric(self) -> bool: ...

    def read_codes(self, start: int = 0, stop: int | None = None) -> npt.NDArray[np.uint8]:
        """Unsigned codes u in 0 … 2^bits − 1 of output rows [start, stop), uint8 [rows, in]."""

    def read_scales(self, start: int = 0, stop: int | None = None) -> tuple[Array, Array]:
        """(scales, zeros) of output rows [start, stop), float32 [rows, in / block] each, in the engine's convention:
        w = (u − 2^(bits−1))·scale + zero; `zeros` is thus the value of the middle code (MNN: ConvolutionCommon.cpp
        with aMin = 1). Both are exact in float32; whether float16 holds them is for the writer to check."""


@dataclass(frozen=True)
class ArrayTensor:
    """A small tensor in memory (a changed bias, a norm). values: bfloat16, float16 or float32."""

    values: Array
    dtype: str = "F32"

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(int(axis) for axis in self.values.shape)

    def read(self, start: int = 0, stop: int | None = None) -> Array:
        return self.values if self.values.ndim == 0 else self.values[start:stop]


class ByteFile:
    """A file read with pread: no mapping (mapped pages count as our memory), no shared position (threads may read)."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = -1
        self.size = path.stat().st_size

    def read(self, offset: int, count: int) -> npt.NDArray[np.uint8]:
        """`count` bytes from `offset` as uint8. Raises StageFailed when the file ends before that."""
        buffer = np.empty(count, np.uint8)
        view = memoryview(buffer.data)
        done = 0
        while done < count:
            got = os.preadv(self._open(), [view[done:]], offset + done)
            if got == 0:
                raise StageFailed(
                    f"{self.path.name} ends at byte {offset + done}, {count - done} bytes early",
                    "the file is truncated: download or copy it again",
                )
            done += got
        return buffer

    def _open(self) -> int:
        if self._descriptor < 0:
            self._descriptor = os.open(self.path, os.O_RDONLY)
        return self._descriptor

    def __del__(self) -> None:
        if getattr(self, "_descriptor", -1) >= 0:
            os.close(self._descriptor)


# Safetensors' names (its README, "Format") to numpy's; sub-byte types have no place in a checkpoint that we can read.
NUMPY_DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "U8": np.dtype(np.uint8),
    "I8": np.dtype(np.int8),
    "U16": np.dtype(np.uint16),
    "I16": np.dtype(np.int16),
    "U32": np.dtype(np.uint32),
    "I32": np.dtype(np.int32),
    "U64": np.dtype(np.uint64),
    "I64": np.dtype(np.int64),
    "F16": np.dtype(np.float16),
    "F32": np.dtype(np.float32),
    "F64": np.dtype(np.float64),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "F8_E8M0": np.dtype(ml_dtypes.float8_e8m0fnu),
}
FLOAT_DTYPES = frozenset({"BF16", "F16", "F32"})


@dataclass(frozen=True)
class FileTensor:
    """A dense row-major tensor at a byte offset of a file, little-endian."""

    file: ByteFile
    offset: int
    shape: tuple[int, ...]
    dtype: str

    def read(self, start: int = 0, stop: int | None = None) -> Array:
        """Rows as the file holds them: no conversion, so an integer or 8-bit float tensor comes as that."""
        numpy_dtype = NUMPY_DTYPES[self.dtype]
        if not self.shape:
            return self.file.read(self.offset, numpy_dtype.itemsize).view(numpy_dtype).reshape(())
        first, last, _ = slice(start, stop).indices(self.shape[0])
        row = int(np.prod(self.shape[1:], dtype=np.int64)) * numpy_dtype.itemsize
        data = self.file.read(self.offset + first * row, max(0, last - first) * row)
        return data.view(numpy_dtype).reshape((max(0, last - first), *self.shape[1:]))

    def read_columns(self, start: int, stop: int) -> Array:
        """Columns [start, stop) of a matrix, [rows, stop − start]: one small read for each row."""
        numpy_dtype = NUMPY_DTYPES[self.dtype]
        rows, columns = self.shape
        size = (stop - start) * numpy_dtype.itemsize
        result = np.empty((rows, size), np.uint8)
        for row in range(rows):
            result[row] = self.file.read(self.offset + (row * columns + start) * numpy_dtype.itemsize, size)
        return result.view(numpy_dtype)


def to_float32(values: Array) -> npt.NDArray[np.float32]:
    """`values` as float32; exact from bfloat16 and float16."""
    return values.astype(np.float32, copy=False)

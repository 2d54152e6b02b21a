"""One tensor of a GGUF file: where it lies, its rows in Hugging Face's order, its values by `gguf`'s formulas."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from pipeline.checkpoint.tensor import Array, ByteFile
from pipeline.errors import StageFailed

DENSE: dict[str, np.dtype[Any]] = {
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}
# Elements that are dequantised at a time: the library's temporaries stay small, and threads seldom wait for each other.
PIECE = 1 << 18


@dataclass(frozen=True)
class GgufTensor:
    """One tensor of a GGUF file: rows are the entries of all axes but the last, `cols` values each.

    heads > 0: rows of each head are stored in interleaved order and given back in Hugging Face's (half) order.
    first_row selects one expert of a stacked tensor. offset is added to every value (Gemma's norms: −1).
    """

    file: ByteFile
    position: int
    shape: tuple[int, ...]
    dtype: str
    heads: int = 0
    offset: float = 0.0

    def read(self, start: int = 0, stop: int | None = None) -> Array:
        """Entries [start, stop) of the first axis, float32 (or the stored dtype of a dense, unchanged tensor)."""
        values = self.decode(self.stored(start, stop))
        return values + np.float32(self.offset) if self.offset else values

    def stored(self, start: int = 0, stop: int | None = None) -> npt.NDArray[np.uint8]:
        """The bytes of entries [start, stop) in Hugging Face's order, uint8 [entries, bytes].

        Of permuted rows whole heads are read and then picked: at most two heads more than was asked for.
        """
        first, last, _ = slice(start, stop).indices(self.shape[0])
        last = max(first, last)
        size = tensor_bytes(self.shape[1:] or (1,), self.dtype)
        width = self.shape[0] // self.heads if self.heads else 1
        low, high = first // width * width, -(-last // width) * width
        raw = self.file.read(self.position + low * size, (high - low) * size).reshape(-1, size)
        return raw[self.order(first, last) - low] if self.heads else raw

    def decode(self, stored: npt.NDArray[np.uint8]) -> Array:
        """Values of entries from their bytes, [entries, …]."""
        shape = (len(stored), *self.shape[1:])
        if self.dtype in DENSE:
            return np.ascontiguousarray(stored).view(DENSE[self.dtype]).reshape(shape)
        rows = stored.reshape(-1, tensor_bytes(self.shape[-1:], self.dtype))
        return dequantise(rows, self.dtype, self.shape[-1]).reshape(shape)

    def order(self, first: int, last: int) -> npt.NDArray[np.int64]:
        """Stored rows of Hugging Face rows [first, last): row h·D + s·D/2 + j lies at h·D + 2j + s."""
        rows = np.arange(first, last)
        width = self.shape[0] // self.heads
        head, within = np.divmod(rows, width)
        half, index = np.divmod(within, width // 2)
        return np.asarray(head * width + 2 * index + half, np.int64)


def tensor_bytes(shape: tuple[int, ...], dtype: str) -> int:
    """Stored bytes of a tensor; StageFailed if its last axis is not whole blocks."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    block, size = GGML_QUANT_SIZES[GGMLQuantizationType[dtype]]
    if shape[-1] % block and shape != (1,):
        raise StageFailed(
            f"a {dtype} tensor with rows of {shape[-1]} values: not a multiple of {block}", "download it again"
        )
    return int(np.prod(shape, dtype=object)) * int(size) // int(block)


def dequantise(rows: npt.NDArray[np.uint8], dtype: str, columns: int) -> npt.NDArray[np.float32]:
    """float32 [rows, columns] from stored bytes [rows, bytes], by `gguf.quants`, a cache-sized piece at a time."""
    from gguf import GGMLQuantizationType, quants

    kind = GGMLQuantizationType[dtype]
    step = max(1, PIECE // columns)
    result = np.empty((len(rows), columns), np.float32)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        for first in range(0, len(rows), step):
            result[first : first + step] = quants.dequantize(rows[first : first + step], kind)
    return result

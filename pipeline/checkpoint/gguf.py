"""Tensors of a GGUF model, dequantised by row ranges by the `gguf` library's formulas, under Hugging Face names."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from pipeline.checkpoint.gguf_header import GgufHeader, TensorInfo, read_header
from pipeline.checkpoint.gguf_names import Architecture, architecture, huggingface_name
from pipeline.checkpoint.tensor import Array, ByteFile, LazyTensor
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


def open_gguf(paths: Iterable[Path]) -> dict[str, LazyTensor]:
    """Every tensor of a GGUF model (one file, or all parts of a split) by Hugging Face name, none of them read."""
    headers = [read_header(path) for path in sorted(paths)]
    check_parts(headers)
    metadata = headers[0].metadata
    table = architecture(str(metadata.get("general.architecture")))
    tensors: dict[str, LazyTensor] = {}
    for header in headers:
        for name, info in header.tensors.items():
            for key, tensor in _named(header, name, info, table, metadata):
                if key in tensors:
                    raise StageFailed(f"{key} is twice in the GGUF model", "download the file again")
                tensors[key] = tensor
    return tensors


def check_parts(headers: list[GgufHeader]) -> None:
    """A split's parts each know how many there are (gguf-split: split.count, split.no)."""
    count = int(headers[0].metadata.get("split.count", 1) or 1)
    numbers = sorted(int(header.metadata.get("split.no", 0)) for header in headers)
    if numbers != list(range(count)):
        raise StageFailed(
            f"{headers[0].file.path.name} is one of {count} parts, and {len(headers)} are here",
            "bring all parts of the split GGUF together",
        )


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


def _named(
    header: GgufHeader, name: str, info: TensorInfo, table: Architecture, metadata: Any
) -> Iterable[tuple[str, LazyTensor]]:
    """(Hugging Face name, tensor) pairs of one stored tensor: none for a RoPE table, one per expert for a stack."""
    key = huggingface_name(name, table)
    if key is None:
        return
    dtype = _type_name(info.kind, name)
    end = info.offset + tensor_bytes(info.shape, dtype)
    if end > header.file.size:
        raise StageFailed(
            f"{header.file.path.name}: {name} ends at byte {end}, the file at {header.file.size}: it is truncated",
            "download or copy the file again",
        )
    heads = _heads(name, metadata) if table.permuted_qk else 0
    offset = -table.norm_offset if name.endswith("norm.weight") else 0.0
    shape = (1, *info.shape) if name.endswith("ffn_gate_inp_shexp.weight") and len(info.shape) == 1 else info.shape
    if "{}" not in key:
        yield key, _tensor(header.file, info.offset, shape, dtype, heads, offset)
        return
    size = tensor_bytes(shape[1:], dtype)
    for expert in range(shape[0]):
        yield key.format(expert), _tensor(header.file, info.offset + expert * size, shape[1:], dtype)


def _tensor(
    file: ByteFile, position: int, shape: tuple[int, ...], dtype: str, heads: int = 0, offset: float = 0.0
) -> GgufTensor:
    from pipeline.checkpoint.gguf_lattice import LATTICES, GgufLattice

    kind = GgufLattice if dtype in LATTICES and len(shape) == 2 else GgufTensor
    return kind(file, position, shape, dtype, heads, offset)


def _heads(name: str, metadata: Any) -> int:
    leaf = name.split(".")[-2]
    arch = metadata["general.architecture"]
    heads = metadata[f"{arch}.attention.head_count"]
    if leaf == "attn_q":
        return int(heads)
    return int(metadata.get(f"{arch}.attention.head_count_kv", heads)) if leaf == "attn_k" else 0


def _type_name(kind: int, name: str) -> str:
    from gguf import GGMLQuantizationType
    from gguf.quants import _type_traits as readable

    try:
        quantisation = GGMLQuantizationType(kind)
    except ValueError as error:
        raise StageFailed(f"{name} has ggml type {kind}, which gguf does not know", "update gguf") from error
    if quantisation.name not in DENSE and quantisation not in readable:
        raise StageFailed(
            f"{name} has ggml type {quantisation.name}, which gguf cannot dequantise",
            "use another quantisation of this model",
        )
    return str(quantisation.name)

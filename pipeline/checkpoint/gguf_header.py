"""A GGUF file's metadata and tensor table (ggml's docs/gguf.md), read with pread and kept as plain Python values."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.checkpoint.tensor import ByteFile
from pipeline.errors import StageFailed

AGAIN = "download or copy the file again"
# Value types by number (docs/gguf.md, gguf_metadata_value_type); 8 is a string, 9 an array.
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9
FIRST_READ = 1 << 20


@dataclass(frozen=True)
class TensorInfo:
    """shape: outermost axis first (the file has it the other way round). kind: ggml's type number. offset: in bytes,
    from the beginning of the file."""

    shape: tuple[int, ...]
    kind: int
    offset: int


@dataclass(frozen=True)
class GgufHeader:
    """All metadata by key, and where each tensor lies in `file`."""

    file: ByteFile
    metadata: Mapping[str, Any]
    tensors: Mapping[str, TensorInfo]


def read_header(path: Path) -> GgufHeader:
    """Parse one file. Raises StageFailed when it is not a little-endian GGUF of version 2 or 3, or is cut short."""
    file = ByteFile(path)
    cursor = _Cursor(file)
    if cursor.take("4s") != b"GGUF":
        raise StageFailed(f"{path.name} is not a GGUF file", AGAIN)
    version = cursor.take("I")
    if version not in (2, 3):
        raise StageFailed(f"{path.name} is GGUF version {version}; 2 and 3 are read here", "convert the model again")
    tensor_count, value_count = cursor.take("Q"), cursor.take("Q")
    metadata = {}
    for _ in range(value_count):
        key = cursor.string()
        metadata[key] = cursor.value(cursor.take("I"))
    tensors = [_tensor(cursor) for _ in range(tensor_count)]
    alignment = int(metadata.get("general.alignment", 32))
    base = -(-cursor.position // alignment) * alignment
    placed = {name: TensorInfo(info.shape, info.kind, base + info.offset) for name, info in tensors}
    return GgufHeader(file, metadata, placed)


def _tensor(cursor: _Cursor) -> tuple[str, TensorInfo]:
    name = cursor.string()
    axes = [cursor.take("Q") for _ in range(cursor.take("I"))]
    kind, offset = cursor.take("I"), cursor.take("Q")
    return name, TensorInfo(tuple(reversed(axes)), kind, offset)


class _Cursor:
    """Reads values one after the other; the buffer grows as far as the header reaches."""

    def __init__(self, file: ByteFile) -> None:
        self._file = file
        self._data = b""
        self.position = 0

    def take(self, code: str) -> Any:
        layout = f"<{code}"
        size = struct.calcsize(layout)
        self._need(size)
        (value,) = struct.unpack_from(layout, self._data, self.position)
        self.position += size
        return value

    def string(self) -> str:
        length = self.take("Q")
        self._need(length)
        text = self._data[self.position : self.position + length]
        self.position += length
        return text.decode("utf-8", "surrogateescape")

    def value(self, kind: int) -> Any:
        if kind == STRING:
            return self.string()
        if kind == ARRAY:
            return self._array()
        if kind not in SCALARS:
            raise StageFailed(f"{self._file.path.name}: metadata value of an unknown type {kind}", AGAIN)
        return self.take(SCALARS[kind])

    def _array(self) -> list[Any]:
        kind, count = self.take("I"), self.take("Q")
        if kind == STRING:
            return self._strings(count)
        if kind not in SCALARS:
            self._need(count)  # every entry has at least one byte: a wild count ends here, not in memory
            return [self.value(kind) for _ in range(count)]
        dtype = np.dtype(SCALARS[kind]).newbyteorder("<")
        self._need(count * dtype.itemsize)
        values = np.frombuffer(self._data, dtype, count, self.position)
        self.position += count * dtype.itemsize
        return list(values.tolist())

    def _strings(self, count: int) -> list[str]:
        """`count` strings; a loop of its own, since vocabularies have hundreds of thousands."""
        self._need(8 * count)  # a wild count ends here, not in memory
        strings = []
        for _ in range(count):
            if self.position + 8 > len(self._data):
                self._need(8)
            begin = self.position + 8
            end = begin + int.from_bytes(self._data[self.position : begin], "little")
            if end > len(self._data):
                self._need(end - self.position)
            strings.append(self._data[begin:end].decode("utf-8", "surrogateescape"))
            self.position = end
        return strings

    def _need(self, size: int) -> None:
        end = self.position + size
        if end > self._file.size:
            raise StageFailed(f"{self._file.path.name} ends inside its header (byte {self._file.size})", AGAIN)
        if end > len(self._data):
            grown = min(self._file.size, max(end, 2 * len(self._data), FIRST_READ))
            self._data += self._file.read(len(self._data), grown - len(self._data)).tobytes()

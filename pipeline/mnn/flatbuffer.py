"""Reads FlatBuffers tables by slot number: as much of the format as an MNN file needs, without generated classes.

Format: https://flatbuffers.dev/internals — a table starts with a signed offset back to its vtable; the vtable holds
u16 sizes and then one u16 field offset per slot, 0 for an absent field. Vectors and tables are reached through
unsigned relative offsets. Everything is little-endian.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.errors import StageFailed


@dataclass(frozen=True)
class Table:
    """A table at byte `position` of `buffer`. A file that ends early or points outside itself is a StageFailed."""

    buffer: bytes | memoryview
    position: int

    def field(self, slot: int) -> int:
        """The byte position of a field, or 0 when the file leaves it out (= the schema's default)."""
        vtable = self.position - _unpack("<i", self.buffer, self.position)
        if 4 + 2 * slot >= _unpack("<H", self.buffer, vtable):
            return 0
        offset = _unpack("<H", self.buffer, vtable + 4 + 2 * slot)
        return self.position + offset if offset else 0

    def float32(self, slot: int) -> float | None:
        """A scalar float, as the exactly equal Python float; None when absent."""
        position = self.field(slot)
        return float(_unpack("<f", self.buffer, position)) if position else None

    def uint8(self, slot: int) -> int:
        """A scalar byte (a union's type); 0 when absent."""
        position = self.field(slot)
        return _unpack("<B", self.buffer, position) if position else 0

    def table(self, slot: int) -> Table | None:
        """A child table (or a union's value)."""
        position = self.field(slot)
        return Table(self.buffer, _follow(self.buffer, position)) if position else None

    def tables(self, slot: int) -> list[Table]:
        """A vector of tables; empty when absent."""
        return list(self._each(slot))

    def vector(self, slot: int, dtype: str) -> npt.NDArray[np.generic] | None:
        """A vector of scalars ("<f4", "<i4", "<i8"); a view into the buffer, or None when absent."""
        position = self.field(slot)
        if not position:
            return None
        start = _follow(self.buffer, position)
        count = _unpack("<I", self.buffer, start)
        try:
            return np.frombuffer(self.buffer, dtype, count, start + 4)
        except ValueError:
            raise _damaged(start) from None

    def span(self, slot: int) -> tuple[int, int] | None:
        """(first byte, number of elements) of a vector or string field; None when absent."""
        position = self.field(slot)
        if not position:
            return None
        start = _follow(self.buffer, position)
        return start + 4, _unpack("<I", self.buffer, start)

    def text(self, slot: int) -> str:
        """A string field; "" when absent."""
        place = self.span(slot)
        return bytes(self.buffer[place[0] : place[0] + place[1]]).decode() if place else ""

    def _each(self, slot: int) -> Iterator[Table]:
        position = self.field(slot)
        if position:
            start = _follow(self.buffer, position)
            for index in range(_unpack("<I", self.buffer, start)):
                yield Table(self.buffer, _follow(self.buffer, start + 4 + 4 * index))


def root(buffer: bytes | memoryview) -> Table:
    """The file's root table."""
    return Table(buffer, _follow(buffer, 0))


def _follow(buffer: bytes | memoryview, position: int) -> int:
    return position + int(_unpack("<I", buffer, position))


def _unpack(layout: str, buffer: bytes | memoryview, position: int) -> int:
    try:
        return struct.unpack_from(layout, buffer, position)[0]  # type: ignore[no-any-return]
    except struct.error:
        raise _damaged(position) from None


def _damaged(position: int) -> StageFailed:
    return StageFailed(f"an MNN file is damaged: nothing to read at byte {position}", "build it again")

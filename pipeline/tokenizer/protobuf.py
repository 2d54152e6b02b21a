"""Just enough of protobuf's wire format to read a SentencePiece model without its library."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from pipeline.errors import StageFailed

Value = int | bytes
VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5


def fields(data: bytes) -> Iterator[tuple[int, Value]]:
    """(field number, value): ints for varints, raw bytes for the rest. Raises StageFailed for what is no protobuf."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        number, kind = tag >> 3, tag & 7
        if kind == VARINT:
            value, at = _varint(data, at)
            yield number, value
            continue
        if kind == LENGTH:
            size, at = _varint(data, at)
        elif kind in (FIXED32, FIXED64):
            size = 4 if kind == FIXED32 else 8
        else:
            raise StageFailed("tokenizer.model is not a SentencePiece model", "fetch the model again")
        if at + size > len(data):
            raise StageFailed("tokenizer.model is cut short", "fetch the model again")
        yield number, data[at : at + size]
        at += size


def float32(data: Value) -> float:
    """The float in a fixed32 field."""
    assert isinstance(data, bytes)
    return float(struct.unpack("<f", data)[0])


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(data):
        byte = data[at]
        value, shift, at = value | (byte & 0x7F) << shift, shift + 7, at + 1
        if byte < 0x80:
            return value, at
    raise StageFailed("tokenizer.model is cut short", "fetch the model again")

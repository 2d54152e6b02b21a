"""Little-endian primitives of the mtok format (the engine's reader copies integers without alignment or swapping)."""

from __future__ import annotations

import struct

from pipeline.errors import StageFailed

MAX_STRING = 0xFFFF


def u8(value: int) -> bytes:
    """One byte: flags and type codes."""
    return struct.pack("<B", value)


def u16(value: int) -> bytes:
    """Two bytes: lengths of strings."""
    return struct.pack("<H", value)


def u32(value: int) -> bytes:
    """Four bytes: counts, token ids, ranks."""
    return struct.pack("<I", value)


def string(text: str | bytes) -> bytes:
    """u16 length in bytes, then UTF-8. Raises StageFailed beyond 65,535 bytes, which the length field cannot say."""
    data = text.encode("utf-8") if isinstance(text, str) else text
    if len(data) > MAX_STRING:
        raise StageFailed(f"tokenizer: {text[:24]!r}… has {len(data)} bytes, the mtok format allows {MAX_STRING}")
    return u16(len(data)) + data

"""Decoders of tokenizer.json as the mtok format says them.

Codes (engine 3.6.1): 0 ByteLevel, 1 ByteFallback, 2 Metaspace, 3 WordPiece, 4 Fuse, 5 Replace, 6 Strip, 7 Sequence.
There is no code for "none": a Sequence of nothing says it.
"""

from __future__ import annotations

from collections.abc import Callable

from pipeline.tokenizer.binary import string, u8, u32
from pipeline.tokenizer.definition import Component, unsupported, walk

BYTE_LEVEL, BYTE_FALLBACK, METASPACE, WORD_PIECE, FUSE, REPLACE, STRIP, SEQUENCE = range(8)


def encode_decoder(component: Component | None) -> bytes:
    """The decoder section. Raises StageFailed naming a decoder that the engine lacks."""
    parts = [_part(child) for child in walk(component)]
    return parts[0] if len(parts) == 1 else u8(SEQUENCE) + u32(len(parts)) + b"".join(parts)


def _part(component: Component) -> bytes:
    kind = str(component["type"])
    if kind not in ENCODERS:
        raise unsupported(f"decoder {kind}")
    return ENCODERS[kind](component)


def _metaspace(component: Component) -> bytes:
    strips = component.get("prepend_scheme", "always") != "never" and component.get("add_prefix_space", True)
    return u8(METASPACE) + string(component["replacement"]) + u8(bool(strips))


def _word_piece(component: Component) -> bytes:
    return u8(WORD_PIECE) + string(component["prefix"]) + u8(bool(component.get("cleanup", True)))


def _replace(component: Component) -> bytes:
    pattern = component["pattern"]
    if "String" not in pattern:
        raise unsupported(f"decoder that replaces a regular expression ({pattern.get('Regex')!r})")
    return u8(REPLACE) + string(pattern["String"]) + string(component["content"])


def _strip(component: Component) -> bytes:
    return u8(STRIP) + string(component["content"]) + u32(component["start"]) + u32(component["stop"])


ENCODERS: dict[str, Callable[[Component], bytes]] = {
    "ByteLevel": lambda component: u8(BYTE_LEVEL),
    "ByteFallback": lambda component: u8(BYTE_FALLBACK),
    "Fuse": lambda component: u8(FUSE),
    "Metaspace": _metaspace,
    "WordPiece": _word_piece,
    "Replace": _replace,
    "Strip": _strip,
}

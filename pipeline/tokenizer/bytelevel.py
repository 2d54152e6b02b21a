"""GPT-2's byte alphabet: every byte has a printable character, so that byte-level BPE works on text."""

from __future__ import annotations


def _alphabet() -> dict[int, str]:
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    table = {byte: chr(byte) for byte in printable}
    for offset, byte in enumerate(byte for byte in range(256) if byte not in table):
        table[byte] = chr(256 + offset)
    return table


BYTE_TO_CHAR = _alphabet()
CHAR_TO_BYTE = {char: byte for byte, char in BYTE_TO_CHAR.items()}


def encode(text: str) -> str:
    """`text` in UTF-8, each byte as its character ("é" becomes "Ã©", " " becomes "Ġ")."""
    return "".join(BYTE_TO_CHAR[byte] for byte in text.encode("utf-8"))


def decode(piece: str) -> bytes:
    """The bytes of a byte-level piece; characters outside the alphabet stay as their own UTF-8."""
    return b"".join(bytes([CHAR_TO_BYTE[char]]) if char in CHAR_TO_BYTE else char.encode("utf-8") for char in piece)

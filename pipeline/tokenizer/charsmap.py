"""SentencePiece's compiled normalisation ("Precompiled") as literal replacements, which the engine has.

Format (sentencepiece 0.2, normalizer.cc): u32 little-endian, the trie's bytes; a darts-clone double array of u32 units;
then the replacements, each ended by a zero byte. A key's value is the offset of its replacement.

What Hugging Face looks up (tokenizers, `Precompiled`): a grapheme of less than six bytes as a whole, by the shortest
key that it begins with, and else each of its characters. So longer keys, and those that begin with another, never act.
What replacements do not reach: where a key is only the beginning of such a grapheme, Hugging Face drops the rest of it
(a decomposed letter with two marks); here the rest stays.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from tokenizers import normalizers

from pipeline.errors import StageFailed

Rule = tuple[bytes, bytes]
_SHORT = 6  # bytes from which on Hugging Face takes a grapheme apart
_LEAF, _LABEL = 1 << 8, (1 << 31) | 0xFF


def charsmap_rules(charsmap: bytes) -> list[Rule]:
    """(pattern, content) pairs in UTF-8, in the order in which they are to be applied: each changes what none before
    it has made. Raises StageFailed for a damaged table."""
    keys = sorted(_keys(charsmap), key=lambda key: (-len(key), key))
    known = set(keys)
    normalizer = normalizers.Precompiled(charsmap)
    several = [key for key in keys if len(key) > 1 and len(key.encode()) < _SHORT and not _begins(key, known)]
    changes = {key: str(normalizer.normalize_str(key)) for key in (*several, *(key for key in keys if len(key) == 1))}
    changes |= {"\r\n": changes["\r"]} if "\r" in changes else {}  # one grapheme
    first = sorted((key for key in changes if len(key) > 1), key=lambda key: (-len(key), key))
    singles = [key for key in changes if len(key) == 1]
    made = {char for key in singles for char in changes[key]}
    # A character that another's replacement holds must be replaced before it.
    ordered = [*first, *sorted(singles, key=lambda key: (key not in made, key))]
    return [(key.encode(), changes[key].encode()) for key in ordered if changes[key] != key]


def _begins(key: str, known: set[str]) -> bool:
    """Whether a shorter key is the beginning of `key`."""
    return any(key[:end] in known for end in range(1, len(key)))


def _keys(charsmap: bytes) -> Iterator[str]:
    """The strings of less than six bytes that the table replaces."""
    try:
        (size,) = struct.unpack_from("<I", charsmap)
        units = struct.unpack_from(f"<{size // 4}I", charsmap, 4)
        yield from (key.decode() for key in _walk(units))
    except (struct.error, IndexError, UnicodeDecodeError) as error:
        raise StageFailed(f"the tokenizer's precompiled_charsmap is damaged: {error}", "fetch it again") from None


def _walk(units: tuple[int, ...]) -> Iterator[bytes]:
    """Down the double array level by level; a node is the place that its children's bytes are counted from."""
    nodes = [(b"", _offset(units[0]))]
    for _ in range(_SHORT - 1):
        children = []
        for prefix, node in nodes:
            for byte in _following(prefix):
                place = node ^ byte
                if place < len(units) and units[place] & _LABEL == byte:
                    children.append((prefix + bytes([byte]), place ^ _offset(units[place])))
                    if units[place] & _LEAF:
                        yield children[-1][0]
        nodes = children


def _following(prefix: bytes) -> range:
    """Bytes that may come next in UTF-8: the rest of a character, or any that begins one."""
    start = max((index for index, byte in enumerate(prefix) if byte & 0xC0 != 0x80), default=0)
    lead = prefix[start] if prefix else 0
    whole = len(prefix) - start >= (1 if lead < 0x80 else 2 if lead < 0xE0 else 3 if lead < 0xF0 else 4)
    return range(1, 256) if whole or not prefix else range(0x80, 0xC0)


def _offset(unit: int) -> int:
    return (unit >> 10) << ((unit & (1 << 9)) >> 6)

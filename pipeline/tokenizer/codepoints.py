"""Sets of code points, as the regular expressions of the `tokenizers` library see them.

The engine's own Unicode tables differ from Hugging Face's (U+0085, U+2028 and U+2029 are no whitespace, U+0001 to
U+0007 pass for letters, numbers, …). So the sets are not taken from any table: Hugging Face's regex engine is asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Range = tuple[int, int]
Codes = NDArray[np.int64]
LAST = 0x10FFFF
SURROGATES = range(0xD800, 0xE000)
# Assigned characters end at 0x33479 (Unicode 17) and begin again with the tags and variation selectors of plane 14;
# every stretch between has one property throughout, so its first code point stands for all of it.
UNIFORM: tuple[Range, ...] = ((0x33500, 0xDFFFF), (0xE0200, 0xEFFFF), (0xF0000, LAST))


@lru_cache(maxsize=256)
def members(expression: str) -> tuple[Range, ...]:
    """Inclusive ranges of the code points that a one-character `expression` matches. No surrogates."""
    from tokenizers import Regex, pre_tokenizers

    splitter = pre_tokenizers.Split(Regex(f"(?:{expression})+"), "removed", invert=True)
    return merge([_range(start, stop) for start, stop in _sample().pieces(splitter)])


@lru_cache(maxsize=1)
def bert_classes() -> tuple[tuple[Range, ...], tuple[Range, ...]]:
    """(blanks, punctuation) of Hugging Face's BertPreTokenizer, whose Unicode is older than its regex engine's.

    Every character is put behind an "x": a blank leaves no piece, punctuation one of its own.
    """
    from tokenizers import pre_tokenizers

    behind_x = _Characters(np.stack([np.full_like(_codes(), ord("x")), _codes()], axis=1).reshape(-1))
    blanks: list[Range] = []
    marks: list[Range] = []
    end = 0
    for start, stop in behind_x.pieces(pre_tokenizers.BertPreTokenizer()):
        if start > end:
            blanks.append(_range(end // 2, (start + 1) // 2))
        if start % 2 == 1 and stop == start + 1:
            marks.append(_range(start // 2, start // 2 + 1))
        end = stop
    return merge(blanks), merge(marks)


def merge(ranges: Sequence[Range]) -> tuple[Range, ...]:
    """Sorted, without overlaps, neighbours joined (also across the surrogates, which are no characters)."""
    joined: list[Range] = []
    for start, stop in sorted(ranges):
        if joined and _adjacent(joined[-1][1], start):
            joined[-1] = (joined[-1][0], max(stop, joined[-1][1]))
        else:
            joined.append((start, stop))
    return tuple(joined)


def _adjacent(end: int, start: int) -> bool:
    return start <= end + 1 or (end == SURROGATES[0] - 1 and start == SURROGATES[-1] + 1)


class _Characters:
    """A text of the characters `codes`, that can be asked for the pieces of a pre-tokenizer."""

    def __init__(self, codes: Codes) -> None:
        self.text = codes.astype("<u4").tobytes().decode("utf-32-le")
        self._ends = np.cumsum(1 + (codes >= 0x80) + (codes >= 0x800) + (codes >= 0x10000))  # in bytes of UTF-8

    def pieces(self, pre_tokenizer: Any) -> list[tuple[int, int]]:
        """[start, stop) in characters. Asked in bytes: the library is ten times slower in characters."""
        from tokenizers import PreTokenizedString

        asked = PreTokenizedString(self.text)
        pre_tokenizer.pre_tokenize(asked)
        found = np.array([span for _, span, _ in asked.get_splits("original", "byte")], np.int64).reshape(-1, 2)
        starts = np.searchsorted(self._ends, found[:, 0], "right")
        stops = np.searchsorted(self._ends, found[:, 1], "left") + 1
        return list(zip(starts.tolist(), stops.tolist(), strict=True))


@lru_cache(maxsize=1)
def _codes() -> Codes:
    """Every code point but the surrogates, in order; of a uniform stretch the first."""
    kept = np.ones(LAST + 1, bool)
    for start, stop in UNIFORM:
        kept[start + 1 : stop + 1] = False
    kept[SURROGATES[0] : SURROGATES[-1] + 1] = False
    return np.flatnonzero(kept)


@lru_cache(maxsize=1)
def _sample() -> _Characters:
    return _Characters(_codes())


def _range(start: int, stop: int) -> Range:
    """The code points that characters [start, stop) of the sample stand for."""
    codes = _codes()
    last = int(codes[stop]) - 1 if stop < len(codes) else LAST
    return int(codes[start]), SURROGATES[0] - 1 if last == SURROGATES[-1] else last

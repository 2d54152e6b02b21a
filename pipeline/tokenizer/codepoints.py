"""Sets of code points, as the regular expressions of the `tokenizers` library see them.

The engine's own Unicode tables differ from Hugging Face's (U+0085, U+2028 and U+2029 are no whitespace, U+0001 to
U+0007 pass for letters, numbers, …). So the sets are not taken from any table: Hugging Face's regex engine is asked.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache

from tokenizers import Regex, pre_tokenizers

Range = tuple[int, int]
LAST = 0x10FFFF
SURROGATES = range(0xD800, 0xE000)
# Assigned characters end at 0x33479 (Unicode 17) and begin again with the tags and variation selectors of plane 14;
# every stretch between has one property throughout, so its first code point stands for all of it.
UNIFORM: tuple[Range, ...] = ((0x33500, 0xDFFFF), (0xE0200, 0xEFFFF), (0xF0000, LAST))


@lru_cache(maxsize=256)
def members(expression: str) -> tuple[Range, ...]:
    """Inclusive ranges of the code points that a one-character `expression` matches. No surrogates."""
    stretches, text = _stretches(), _sample()
    splitter = pre_tokenizers.Split(Regex(f"(?:{expression})+"), "removed", invert=True)
    found: list[Range] = []
    for _, (start, stop) in splitter.pre_tokenize_str(text):
        found.extend(_code_points(stretches, start, stop))
    return merge(found)


@lru_cache(maxsize=1)
def bert_classes() -> tuple[tuple[Range, ...], tuple[Range, ...]]:
    """(blanks, punctuation) of Hugging Face's BertPreTokenizer, whose Unicode is older than its regex engine's.

    Every character is put behind an "x": a blank leaves no piece, punctuation one of its own.
    """
    stretches, sample = _stretches(), _sample()
    pieces = pre_tokenizers.BertPreTokenizer().pre_tokenize_str("".join(f"x{char}" for char in sample))
    blanks: list[Range] = []
    marks: list[Range] = []
    end = 0
    for _, (start, stop) in pieces:
        if start > end:
            blanks.extend(_code_points(stretches, end // 2, (start + 1) // 2))
        if start % 2 == 1 and stop == start + 1:
            marks.extend(_code_points(stretches, start // 2, start // 2 + 1))
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


@lru_cache(maxsize=1)
def _stretches() -> tuple[Range, ...]:
    """Inclusive ranges in the order of the sample; uniform ones are represented by one character."""
    ends = (SURROGATES[0] - 1, UNIFORM[0][0] - 1)
    plane_14 = (UNIFORM[0][1] + 1, UNIFORM[1][0] - 1)
    return ((0, ends[0]), (SURROGATES[-1] + 1, ends[1]), UNIFORM[0], plane_14, *UNIFORM[1:])


@lru_cache(maxsize=1)
def _sample() -> str:
    return "".join(
        chr(code)
        for start, stop in _stretches()
        for code in ((start,) if (start, stop) in UNIFORM else range(start, stop + 1))
    )


def _code_points(stretches: Sequence[Range], start: int, stop: int) -> Iterator[Range]:
    """Offsets [start, stop) of the sample as ranges of code points."""
    offset = 0
    for first, last in stretches:
        uniform = (first, last) in UNIFORM
        length = 1 if uniform else last - first + 1
        low, high = max(start, offset), min(stop, offset + length)
        if low < high:
            yield (first, last) if uniform else (first + low - offset, first + high - 1 - offset)
        offset += length

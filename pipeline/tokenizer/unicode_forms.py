"""Unicode normalisation forms as literal replacements, in the order in which the engine applies them.

The engine has no NFC or NFKC. Composition is a finite set of strings: characters that the form never keeps, mark
orders, and every composite's spellings. Characters come from the `tokenizers` library's own tables.

What this does not reach: the order of marks that no composite, Hebrew or Arabic has, a composite followed by a mark
that must come before its own (U+00E1 U+0323), and a base whose second mark composes while its first does not. None of
them is in running text.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import permutations

from pipeline.tokenizer.codepoints import members

Rule = tuple[bytes, bytes]
HANGUL_BASE, LEADS, VOWELS, TAILS = 0xAC00, 19, 21, 28
LEAD, VOWEL, TAIL = 0x1100, 0x1161, 0x11A7
SYLLABLES = range(HANGUL_BASE, HANGUL_BASE + LEADS * VOWELS * TAILS)
# Planes with decomposable characters; the rest of Unicode is unchanged by every form.
CANDIDATES = (range(0x80, 0xD800), range(0xF900, 0x20000), range(0x2F800, 0x2FA20))
# Vowel points of Hebrew and Arabic, which are typed in any order.
POINTS = (range(0x05B0, 0x05C8), (*range(0x064B, 0x0653), 0x0670))
SEPARATOR = "\n"
CONTINUATION = 64
CARRY = b"\xfd"
TAIL_MARKS = {b"\xe1\x86": b"\xfe", b"\xe1\x87": b"\xff"}


def nfc_rules() -> list[Rule]:
    """(pattern, content) pairs, in UTF-8, that compose canonically."""
    return [*_as_bytes([*sorted(mapping("NFC").items()), *_mark_order(), *_composites()]), *_hangul()]


def nfkc_rules() -> list[Rule]:
    """(pattern, content) pairs that fold compatibility characters and compose."""
    return [*_as_bytes([*sorted(mapping("NFKC").items()), *_mark_order(), *_composites()]), *_hangul()]


def lower_rules() -> list[Rule]:
    """Every capital to its small letter (İ to i and a dot above), as Rust and Python do, without context."""
    capitals = [chr(code) for stretch in (range(0x41, 0xD800), range(0xE000, 0x20000)) for code in stretch]
    return [(char.encode(), char.lower().encode()) for char in capitals if char.lower() != char]


def accent_rules() -> list[Rule]:
    """NFD without non-spacing marks: composed characters to their base, marks to nothing."""
    marks = {chr(code) for start, stop in members(r"\p{Mn}") for code in range(start, stop + 1)}
    bases = [
        (char, "".join(part for part in parts if part not in marks)) for char, parts in sorted(mapping("NFD").items())
    ]
    return [*_as_bytes(bases), *((mark.encode(), b"") for mark in sorted(marks))]


def cleaning_rules() -> list[Rule]:
    """What BERT's cleaning does beyond the engine's: format characters go, line separators become blanks."""
    formats = [chr(code) for start, stop in members(r"\p{Cf}") for code in range(start, stop + 1)]
    return [*((char.encode(), b"") for char in formats), *((char.encode(), b" ") for char in "\u2028\u2029")]


@lru_cache(maxsize=8)
def mapping(form: str) -> dict[str, str]:
    """Character → its form ("NFC", "NFD", "NFKC", "NFKD"), for all characters that the form changes."""
    characters = [chr(code) for stretch in CANDIDATES for code in stretch]
    normalized = _normalize(form)(SEPARATOR.join(characters)).split(SEPARATOR)
    return {before: after for before, after in zip(characters, normalized, strict=True) if before != after}


def _normalize(form: str) -> Callable[[str], str]:
    from tokenizers import normalizers

    normalizer = getattr(normalizers, form)()
    return lambda text: str(normalizer.normalize_str(text))


def _as_bytes(rules: list[tuple[str, str]]) -> Iterator[Rule]:
    return ((pattern.encode(), content.encode()) for pattern, content in rules)


def _decomposed_composites() -> dict[str, str]:
    """Composite → full canonical decomposition, for what NFC keeps, Hangul aside."""
    unkept = mapping("NFC")
    return {char: parts for char, parts in mapping("NFD").items() if char not in unkept and ord(char) not in SYLLABLES}


def _mark_order() -> list[tuple[str, str]]:
    """Two marks of one script in the wrong order, twice over for runs of three."""
    composing = {mark for parts in _decomposed_composites().values() for mark in parts[1:]}
    pairs = []
    for script in (composing, *map(set, (map(chr, stretch) for stretch in POINTS))):
        marks = sorted(mark for mark in script if unicodedata.combining(mark))
        pairs += [
            (first + second, second + first)
            for first in marks
            for second in marks
            if unicodedata.combining(first) > unicodedata.combining(second)
        ]
    return pairs + pairs


def _composites() -> Iterator[tuple[str, str]]:
    compose = _normalize("NFC")
    composites = sorted(_decomposed_composites().items(), key=lambda item: (len(item[1]), item[0]))
    for char, parts in composites:
        spellings = {compose(parts[0] + "".join(order[:-1])) + order[-1] for order in permutations(parts[1:])}
        yield from ((spelling, char) for spelling in sorted(spellings) if compose(spelling) == char)


def _hangul() -> list[Rule]:
    """Lead + vowel, then syllable + tail.

    The 10,773 syllables with a tail would cost each encoded text most of a millisecond. Their UTF-8 is arithmetic:
    a tail adds 1 to 27 to the last byte, with a carry. So a tail after a true LV syllable is marked with a byte that
    UTF-8 never uses, the addition is done on bytes, carries are passed on, and marks that stay are undone.
    """
    pairs = [
        (chr(LEAD + index // VOWELS) + chr(VOWEL + index % VOWELS), chr(HANGUL_BASE + index * TAILS))
        for index in range(LEADS * VOWELS)
    ]
    composed = [(pattern.encode(), content.encode()) for pattern, content in pairs]
    marked = [(syllable + lead, syllable + mark) for _, syllable in composed for lead, mark in TAIL_MARKS.items()]
    restored = [(mark, lead) for lead, mark in TAIL_MARKS.items()]
    return [*composed, *marked, *_tail_additions(), *_carries(), *restored]


def _tail_additions() -> Iterator[Rule]:
    """Last byte of an LV syllable + marked tail → the new last byte, preceded by CARRY if it overflows."""
    for low in range(0, CONTINUATION, 4):  # code points of LV syllables are multiples of 4
        for tail in range(1, TAILS):
            encoded = chr(TAIL + tail).encode()
            total = low + tail
            carry = CARRY if total >= CONTINUATION else b""
            yield (
                bytes([0x80 + low]) + TAIL_MARKS[encoded[:2]] + encoded[2:],
                carry + bytes([0x80 + total % CONTINUATION]),
            )


def _carries() -> Iterator[Rule]:
    """A carry out of the last byte goes into the middle one, and out of that into the lead byte (EA to ED)."""
    for lead in range(0xEA, 0xED):
        yield bytes([lead, 0xBF]) + CARRY, bytes([lead + 1, 0x80])
    for middle in range(0x80, 0xBF):
        yield bytes([middle]) + CARRY, bytes([middle + 1])

"""Normalizers of tokenizer.json as the mtok format says them.

Codes (engine 3.6.1): 0 none, 2 Prepend, 3 Replace (literal), 4 Sequence, 5 Bert, 8 Strip. Code 6, the engine's table
normaliser, is never written: whatever its table says, it turns zero-width joiners, bidi marks and control characters
into spaces. Unicode forms are written as literal replacements instead (see `unicode_forms`).
"""

from __future__ import annotations

from collections.abc import Callable

from pipeline.tokenizer.binary import string, u8, u32
from pipeline.tokenizer.definition import Component, unsupported, walk
from pipeline.tokenizer.unicode_forms import accent_rules, lower_rules, nfc_rules, nfkc_rules

NONE, PREPEND, REPLACE, SEQUENCE, BERT, STRIP = 0, 2, 3, 4, 5, 8


def encode_normalizer(component: Component | None) -> bytes:
    """The normalizer section. Raises StageFailed naming a normalizer that the engine has no counterpart for."""
    return join([part for child in walk(component) for part in _parts(child)])


def join(parts: list[bytes]) -> bytes:
    """One section out of encoded normalizers, applied in order."""
    if not parts:
        return u8(NONE)
    return parts[0] if len(parts) == 1 else u8(SEQUENCE) + u32(len(parts)) + b"".join(parts)


def replace(pattern: str | bytes, content: str | bytes) -> bytes:
    """Every occurrence of `pattern`, literally, left to right."""
    return u8(REPLACE) + string(pattern) + string(content)


def _parts(component: Component) -> list[bytes]:
    kind = str(component["type"])
    if kind not in ENCODERS:
        raise unsupported(f"normalizer {kind}")
    return ENCODERS[kind](component)


def _prepend(component: Component) -> list[bytes]:
    return [u8(PREPEND) + string(component["prepend"])]


def _replace(component: Component) -> list[bytes]:
    pattern = component["pattern"]
    if "String" not in pattern:
        raise unsupported(f"normalizer that replaces a regular expression ({pattern.get('Regex')!r})")
    return [replace(pattern["String"], component["content"])]


def _strip(component: Component) -> list[bytes]:
    left, right = bool(component.get("strip_left", True)), bool(component.get("strip_right", True))
    return [u8(STRIP) + u8(left) + u8(right)]


def _lowercase(component: Component) -> list[bytes]:
    return [replace(*rule) for rule in lower_rules()]


def _bert(component: Component) -> list[bytes]:
    """Cleaning and CJK blanks by the engine's Bert; accents and case by rules, since its Bert drops vowel signs too."""
    lower = bool(component.get("lowercase", True))
    strip = component.get("strip_accents")
    clean = u8(BERT) + bytes(
        [bool(component.get("clean_text", True)), bool(component.get("handle_chinese_chars", True)), 0, 0]
    )
    accents = accent_rules() if (lower if strip is None else strip) else []
    return [clean, *(replace(*rule) for rule in [*accents, *(lower_rules() if lower else [])])]


ENCODERS: dict[str, Callable[[Component], list[bytes]]] = {
    "Prepend": _prepend,
    "Replace": _replace,
    "Strip": _strip,
    "Lowercase": _lowercase,
    "BertNormalizer": _bert,
    "NFC": lambda component: [replace(*rule) for rule in nfc_rules()],
    "NFKC": lambda component: [replace(*rule) for rule in nfkc_rules()],
}

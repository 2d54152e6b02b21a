"""Normalizers of tokenizer.json as the mtok format says them.

Codes (engine 3.6.1): 0 none, 2 Prepend, 3 Replace (literal), 4 Sequence, 5 Bert, 8 Strip. Code 6, the engine's table
normaliser, is never written: whatever its table says, it turns zero-width joiners, bidi marks and control characters
into spaces. Unicode forms are written as literal replacements instead (see `unicode_forms`).
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable

from pipeline.errors import StageFailed
from pipeline.tokenizer.binary import string, u8, u32
from pipeline.tokenizer.charsmap import charsmap_rules
from pipeline.tokenizer.definition import Component, unsupported, walk
from pipeline.tokenizer.unicode_forms import accent_rules, cleaning_rules, lower_rules, nfc_rules, nfkc_rules

MARK = "▁"  # SentencePiece's blank
BLANKS = " {2,}"  # the one regular expression that files converted from SentencePiece have
HALVINGS = 12  # runs of up to 4,096 blanks become one
NONE, PREPEND, REPLACE, SEQUENCE, BERT, STRIP = 0, 2, 3, 4, 5, 8


def encode_normalizer(component: Component | None, pre_tokenizer: Component | None = None) -> bytes:
    """The normalizer section. Raises StageFailed naming a normalizer that the engine has no counterpart for.

    pre_tokenizer: a Metaspace in it takes a mark in the text for a blank, which the engine's does not.
    """
    marks = [part["replacement"] for part in walk(pre_tokenizer) if part["type"] == "Metaspace"]
    parts = [part for child in walk(component) for part in _parts(child)]
    return join([*parts, *(replace(mark, " ") for mark in marks)])


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
    pattern, content = component["pattern"], component["content"]
    if pattern.get("Regex") == BLANKS and content in (" ", MARK):
        # One at a time: a mark that stands for a run swallows what is left of it.
        steps = dict.fromkeys([("  ", content), (content + " ", content), (content * 2, content)])
        return [replace(*step) for step in steps] * HALVINGS
    if "String" not in pattern:
        raise unsupported(f"normalizer that replaces a regular expression ({pattern.get('Regex')!r})")
    return [replace(pattern["String"], content)]


def _precompiled(component: Component) -> list[bytes]:
    try:
        charsmap = base64.b64decode(component["precompiled_charsmap"], validate=True)
    except (binascii.Error, TypeError) as error:
        raise StageFailed(f"tokenizer.json's precompiled_charsmap is no base64: {error}", "fetch it again") from None
    return [replace(*rule) for rule in charsmap_rules(charsmap)]


def _strip(component: Component) -> list[bytes]:
    """On the right the engine's Strip takes nothing away (it decodes one byte past the text's end)."""
    if component.get("strip_right", True):
        raise unsupported("normalizer Strip on the right")
    return [u8(STRIP) + u8(bool(component.get("strip_left", True))) + u8(0)]


def _lowercase(component: Component) -> list[bytes]:
    return [replace(*rule) for rule in lower_rules()]


def _bert(component: Component) -> list[bytes]:
    """Cleaning and CJK blanks by the engine's Bert; accents and case by rules, since its Bert drops vowel signs too."""
    lower = bool(component.get("lowercase", True))
    strip = component.get("strip_accents")
    cleans, cuts = bool(component.get("clean_text", True)), bool(component.get("handle_chinese_chars", True))
    clean = u8(BERT) + bytes([cleans, cuts, 0, 0])
    before = [replace(*rule) for rule in cleaning_rules()] if cleans else []
    accents = accent_rules() if (lower if strip is None else strip) else []
    return [*before, clean, *(replace(*rule) for rule in [*accents, *(lower_rules() if lower else [])])]


ENCODERS: dict[str, Callable[[Component], list[bytes]]] = {
    "Prepend": _prepend,
    "Replace": _replace,
    "Strip": _strip,
    "Lowercase": _lowercase,
    "BertNormalizer": _bert,
    "Precompiled": _precompiled,
    "NFC": lambda component: [replace(*rule) for rule in nfc_rules()],
    "NFKC": lambda component: [replace(*rule) for rule in nfkc_rules()],
}

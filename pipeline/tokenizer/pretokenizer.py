"""Pre-tokenizers of tokenizer.json as the mtok format says them.

Codes (engine 3.6.1): 0 none, 1 ByteLevel, 2 Digits, 3 Metaspace, 4 Split by regex, 5 Bert, 6 Sequence.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from pipeline.tokenizer.binary import string, u8, u32
from pipeline.tokenizer.codepoints import bert_classes
from pipeline.tokenizer.definition import Component, unsupported, walk
from pipeline.tokenizer.regex import GPT2, RUN_GUARD, spell, to_wide

NONE, BYTE_LEVEL, METASPACE, SPLIT, SEQUENCE = 0, 1, 3, 4, 6
ISOLATED, REMOVED, MERGED_WITH_PREVIOUS = 0, 1, 2
BEHAVIOURS = {"Isolated": ISOLATED, "Removed": REMOVED, "MergedWithPrevious": MERGED_WITH_PREVIOUS}


def encode_pre_tokenizer(component: Component | None) -> bytes:
    """The pre-tokenizer section. Raises StageFailed naming a pre-tokenizer or behaviour that the engine lacks."""
    parts = [part for child in walk(component) for part in _parts(child)]
    bert_only = all(child["type"] == "BertPreTokenizer" for child in walk(component))  # single characters: no recursion
    wide = not bert_only and any(part[0] == SPLIT and not part.isascii() for part in parts)
    guard = [split(RUN_GUARD)] if wide else []
    return join([*guard, *parts])


def join(parts: list[bytes]) -> bytes:
    """One section out of encoded pre-tokenizers, applied in order."""
    if not parts:
        return u8(NONE)
    return parts[0] if len(parts) == 1 else u8(SEQUENCE) + u32(len(parts)) + b"".join(parts)


def metaspace(replacement: str, prefix_space: bool) -> bytes:
    """ " " becomes `replacement`; with `prefix_space`, a piece that does not start with " " gets one first."""
    return u8(METASPACE) + string(replacement) + u8(prefix_space)


def split(pattern: str, behaviour: int = ISOLATED, invert: bool = False) -> bytes:
    """Cut at the matches of a regex in the engine's dialect."""
    return u8(SPLIT) + string(pattern) + u8(invert) + u8(behaviour)


def _parts(component: Component) -> list[bytes]:
    kind = str(component["type"])
    if kind not in ENCODERS:
        raise unsupported(f"pre-tokenizer {kind}")
    return ENCODERS[kind](component)


def _byte_level(component: Component) -> list[bytes]:
    prefix = [metaspace(" ", True)] if component.get("add_prefix_space") else []
    words = [split(to_wide(GPT2))] if component.get("use_regex", True) else []
    return [*prefix, *words, u8(BYTE_LEVEL) + u8(False)]


def _digits(component: Component) -> list[bytes]:
    """Not code 2: the engine's Digits knows ASCII digits only."""
    return [split(to_wide(r"\p{N}" if component.get("individual_digits") else r"\p{N}+"))]


def _split(component: Component) -> list[bytes]:
    pattern = component["pattern"]
    if "Folded" in pattern:  # ours, in the folded engine's dialect
        return [split(pattern["Folded"])]
    regex = to_wide(pattern["Regex"]) if "Regex" in pattern else re.escape(pattern["String"])
    return [split(regex, _behaviour(component), bool(component.get("invert")))]


def _metaspace(component: Component) -> list[bytes]:
    """prepend_scheme "first" is "always" here: the engine does not know whether a piece is the text's first."""
    scheme = component.get("prepend_scheme") or ("always" if component.get("add_prefix_space", True) else "never")
    if scheme == "first":
        raise unsupported("pre-tokenizer Metaspace with prepend_scheme=first")
    spaces = metaspace(str(component["replacement"]), scheme == "always")
    # Cut before the blanks become marks: only the first piece can lack one, and it alone gets the prefix.
    return [split(" [^ ]*|[^ ]+"), spaces] if component.get("split", True) else [spaces]


def _bert(component: Component) -> list[bytes]:
    """Not code 5: the engine's Unicode is newer, and has punctuation that is none to Hugging Face (U+2E46)."""
    blanks, marks = bert_classes()
    return [split(spell(blanks), REMOVED), split(spell(marks))]


def _punctuation(component: Component) -> list[bytes]:
    return [split(to_wide(r"[\p{P}!-/:-@\[-`{-~]"), _behaviour(component))]


def _whitespace(component: Component) -> list[bytes]:
    return [split(to_wide(r"\w+|[^\w\s]+"), REMOVED, invert=True)]


def _whitespace_split(component: Component) -> list[bytes]:
    return [split(to_wide(r"\s"), REMOVED)]


def _behaviour(component: Component) -> int:
    behaviour = str(component.get("behavior", "Isolated"))
    if behaviour not in BEHAVIOURS:
        raise unsupported(f"pre-tokenizer {component['type']} with behaviour {behaviour}")
    return BEHAVIOURS[behaviour]


def _marked(component: Component) -> list[bytes]:
    """Ours (see `whole_words`): a mark in front of every word, taken away where the pattern `off` matches."""
    return [metaspace(str(component["mark"]), True), split(str(component["off"]), REMOVED)]


ENCODERS: dict[str, Callable[[Component], list[bytes]]] = {
    "Metaspace": _metaspace,
    "BertPreTokenizer": _bert,
    "Punctuation": _punctuation,
    "Whitespace": _whitespace,
    "WhitespaceSplit": _whitespace_split,
    "ByteLevel": _byte_level,
    "Digits": _digits,
    "Split": _split,
    "Marked": _marked,
}

"""What the engine's tokenizers cannot do for a given model, in words: for tokenizer.json, people and the gate."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.tokenizer.bytelevel import CHAR_TO_BYTE
from pipeline.tokenizer.definition import Definition, walk
from pipeline.tokenizer.merging import Unreached
from pipeline.tokenizer.regex import LONGEST_RUN
from pipeline.tokenizer.whole_words import sayable

NORMAL_FORMS = ("NFC", "NFKC")


def known_limits(definition: Definition, form: str, unreached: Sequence[Unreached] = ()) -> list[str]:
    """One line per class of texts. unreached: words that merging does not reach."""
    limits = ["a text ends at U+0000 when it comes through the Python binding"]
    if form == "txt":
        limits.append("the older format's tokenizers split words their own way: see docs/tokenizers.md")
    lacking = sorted(byte for char, byte in CHAR_TO_BYTE.items() if char not in definition.vocabulary())
    if form == "txt" and definition.byte_level and lacking:
        limits.append(f"a text with one of the bytes {bytes(lacking).hex(' ')} ends the engine's process")
    if form == "txt" and definition.kind == "BPE" and not definition.byte_level:
        limits.append("of a token of several blanks only the first is streamed as a blank")
    if definition.byte_level and form == "mtok":
        limits.append(f"more than {LONGEST_RUN:,} characters without a blank (or of blanks only) are cut there")
    kept = set() if form == "txt" else set(sayable(definition, unreached))
    words = [word.text for word in unreached if word not in kept]
    if words:
        limits.append(
            f"{len(words)} words that are one token by themselves are cut: {', '.join(map(ascii, words[:3]))}, …"
        )
    for part in walk(definition.normalizer):
        if part["type"] in NORMAL_FORMS:
            limits.append(f"{part['type']} orders marks of composed letters, Hebrew and Arabic only")
        if part["type"] == "Precompiled":
            limits.append("of a letter typed as a base and two marks Hugging Face drops the second mark; it stays here")
        if part["type"] == "Strip":
            limits.append("U+0085, U+2028 and U+2029 are not stripped from the start of a text")
        if part["type"] == "BertNormalizer":
            limits.append("characters of private use are not cleaned away")
    return limits

"""Cuts SentencePiece text at its blanks, where that changes nothing.

A SentencePiece BPE model reads a whole prompt as one word, and the engine's merge loop is quadratic in a word's
length. Where no piece of the vocabulary goes on over a blank, cutting in front of blanks gives the same merges. So
the normalizer's last step, " " → "▁", moves behind a cut: Split on blanks (which the engine's fast regex engine can
do, being ASCII), then Metaspace.
"""

from __future__ import annotations

import re
from dataclasses import replace

from pipeline.tokenizer.definition import Component, Definition, walk

SPACE = "▁"
MOST_EXCEPTIONS = 32
TO_SPACE = ("Replace", " ", SPACE)


def cut_at_blanks(definition: Definition) -> Definition:
    """An equal definition whose words are short; `definition` itself where it does not apply."""
    steps = list(walk(definition.normalizer))
    if definition.kind != "BPE" or not steps or _as_replace(steps[-1]) != TO_SPACE or not _keeps_whole(definition):
        return definition
    exceptions = _exceptions(definition)
    if exceptions is None:
        return definition
    words = "|".join([*map(re.escape, exceptions), "[^ ]"])
    split = {"type": "Split", "pattern": {"Folded": f" *(?:{words})+| +"}, "behavior": "Isolated"}
    metaspace = {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": "never", "split": False}
    normalizer = {"type": "Sequence", "normalizers": [_with_blanks(step) for step in steps[:-1]]}
    return replace(
        definition, normalizer=normalizer, pre_tokenizer={"type": "Sequence", "pretokenizers": [split, metaspace]}
    )


def _as_replace(step: Component) -> tuple[str, str, str] | None:
    if step["type"] != "Replace":
        return None
    return "Replace", str(step["pattern"].get("String")), str(step["content"])


def _keeps_whole(definition: Definition) -> bool:
    """No pre-tokenizer, or Gemma 3's, which looks for blanks where there are none any more."""
    parts = list(walk(definition.pre_tokenizer))
    return all(part["type"] == "Split" and part["pattern"].get("String") == " " for part in parts)


def _exceptions(definition: Definition) -> list[str] | None:
    """Pieces over a blank, with blanks, longest first; None if there are too many or they are not ASCII."""
    pieces = [piece for piece in definition.vocabulary() if piece.rfind(SPACE) > 0 and SPACE in piece.lstrip(SPACE)]
    texts = sorted((piece.replace(SPACE, " ").lstrip(" ") for piece in pieces), key=lambda text: (-len(text), text))
    return texts if len(texts) <= MOST_EXCEPTIONS and all(text.isascii() for text in texts) else None


def _with_blanks(step: Component) -> Component:
    return {**step, "prepend": " "} if step["type"] == "Prepend" and step["prepend"] == SPACE else step

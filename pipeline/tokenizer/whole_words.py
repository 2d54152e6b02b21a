"""`ignore_merges` in a file that cannot say it: a mark in front of a whole word, and merges that only the mark begins.

Of every word that the pre-tokenizer makes, the engine's Metaspace puts a mark in front, and a Split takes it away again
unless the word, to its end, is one that merging does not reach. What is left starts with the mark, merges as always
(no merge of the model's knows the mark), and then the mark takes in the parts one after the other, by merges of the
lowest rank. The last step spells mark + word, and that is a second spelling of the word's id. Other words never see a
new merge. A word whose parts begin another word's has a mark of its own: its id must not go on merging.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from pipeline.tokenizer.definition import Component, Definition, walk
from pipeline.tokenizer.merges import flat
from pipeline.tokenizer.merging import Unreached
from pipeline.tokenizer.regex import SYNTAX, spell

# Outside the byte alphabet, and sorted before it: of an id's spellings the engine decodes to the last, the word itself.
MARKS = "\x01\x02\x03\x04\x05\x06\x07\x08"
ALPHABET = spell(((0x21, 0x143),))
MOST_CHARACTERS = 20_000  # std::wregex gives up at 100,000 states


def keep_whole(definition: Definition, words: Sequence[Unreached]) -> Definition:
    """An equal definition for an engine that always merges; `words` are the unreached ones to be kept whole."""
    if not words:
        return definition
    vocabulary = definition.vocabulary()
    free = max([*vocabulary.values(), *(token.id for token in definition.added_tokens)]) + 1
    steps: dict[str, int] = {}
    merges: dict[tuple[str, str], None] = {}
    marked = {mark: layer for mark, layer in zip(MARKS, _layers(words), strict=False) if layer}
    for left, right in (pair for mark, layer in marked.items() for word in layer for pair in _chain(mark, word)):
        steps.setdefault(left, free + len(steps))
        merges.setdefault((left, right))
    known = flat(definition.model.get("merges") or ())
    model = {
        **definition.model,
        "vocab": {**vocabulary, **steps},
        "merges": [*zip(known[0::2], known[1::2], strict=True), *merges],
    }
    aliases = {mark + word.piece: vocabulary[word.piece] for mark, layer in marked.items() for word in layer}
    return replace(definition, model=model, aliases=aliases, pre_tokenizer=_marking(definition.pre_tokenizer, marked))


def sayable(definition: Definition, words: Sequence[Unreached]) -> list[Unreached]:
    """The words that `keep_whole` can keep: none of too many, or of pieces that are not in the byte alphabet."""
    if not definition.byte_level or sum(len(word.piece) for word in words) > MOST_CHARACTERS:
        return []
    return [word for layer in _layers(words)[: len(MARKS)] for word in layer]


def _layers(words: Sequence[Unreached]) -> list[list[Unreached]]:
    """Words of a layer do not begin one another. The longest are in the first."""
    layers: list[list[Unreached]] = []
    while words:
        beginnings = {word.parts[:length] for word in words for length in range(1, len(word.parts))}
        layers.append([word for word in words if word.parts not in beginnings])
        words = [word for word in words if word.parts in beginnings]
    return layers


def _chain(mark: str, word: Unreached) -> list[tuple[str, str]]:
    """(left, right) of the merges from the mark to the whole word."""
    return [(mark + "".join(word.parts[:at]), part) for at, part in enumerate(word.parts)]


def _marking(component: Component | None, marked: Mapping[str, Sequence[Unreached]]) -> Component:
    marks: list[dict[str, Any]] = [
        {"type": "Marked", "mark": mark, "off": f"{mark}(?!{_any_of([word.piece for word in layer])}(?!{ALPHABET}))"}
        for mark, layer in marked.items()
    ]
    return {"type": "Sequence", "pretokenizers": [*walk(component), *marks]}


def _any_of(words: Sequence[str]) -> str:
    """An ECMAScript group for the words, as a tree by first character: a failed attempt costs one letter."""
    following: dict[str, list[str]] = {}
    for word in words:
        following.setdefault(word[:1], []).append(word[1:])
    branches = [_literal(first) + (_any_of(rest) if first else "") for first, rest in sorted(following.items())[::-1]]
    return branches[0] if len(branches) == 1 else "(?:" + "|".join(branches) + ")"


def _literal(char: str) -> str:
    return "\\" + char if char in SYNTAX else char

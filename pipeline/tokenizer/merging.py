"""Whole words that a tokenizer takes as one token, though its merges do not lead there (`ignore_merges`).

Most such vocabularies (tiktoken's) reach every piece by merging anyway. Where some are not reached, an engine that
always merges cuts these words differently; `whole_words` says how the file makes it keep them.
"""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.tokenizer import bytelevel
from pipeline.tokenizer.definition import Definition
from pipeline.tokenizer.merges import flat


@dataclass(frozen=True)
class Unreached:
    """A piece of the vocabulary, and the pieces that merging makes of its text instead."""

    piece: str
    parts: tuple[str, ...]

    @property
    def text(self) -> str:
        """The word as a person writes it."""
        return bytelevel.decode(self.piece).decode("utf-8", "replace")


def unreached_words(definition: Definition) -> list[Unreached]:
    """The pieces that merging does not reach, in the order of their ids; none without ignore_merges."""
    if definition.kind != "BPE" or not definition.model.get("ignore_merges"):
        return []
    from tokenizers import Tokenizer, models

    vocabulary = definition.vocabulary()
    pairs = flat(definition.model.get("merges") or ())
    merging = Tokenizer(models.BPE(vocabulary, list(zip(pairs[0::2], pairs[1::2], strict=True))))
    added = {token.id for token in definition.added_tokens}  # matched before any merging
    pieces = sorted((piece for piece, index in vocabulary.items() if index not in added), key=vocabulary.__getitem__)
    encoded = merging.encode_batch_fast(pieces, add_special_tokens=False)
    by_id = {index: piece for piece, index in vocabulary.items()}
    return [
        Unreached(piece, tuple(by_id[index] for index in found.ids))
        for piece, found in zip(pieces, encoded, strict=True)
        if len(found) != 1
    ]

"""Whole words that a tokenizer takes as one token, though its merges do not lead there (`ignore_merges`).

The engine always merges. Most such vocabularies (tiktoken's) reach every piece by merging anyway; where some are not
reached, the engine cuts these words differently. Nothing in its file can say otherwise.
"""

from __future__ import annotations

import json

from pipeline.tokenizer import bytelevel
from pipeline.tokenizer.definition import Definition


def unreached_words(definition: Definition) -> list[str]:
    """Texts of the pieces that merging does not reach, in the order of their ids; none without ignore_merges."""
    if definition.kind != "BPE" or not definition.model.get("ignore_merges"):
        return []
    from tokenizers import Tokenizer

    merging = Tokenizer.from_str(json.dumps({**EMPTY, "model": {**definition.model, "ignore_merges": False}}))
    added = {token.id for token in definition.added_tokens}  # matched before any merging
    vocabulary = sorted(
        ((piece, index) for piece, index in definition.vocabulary().items() if index not in added),
        key=lambda item: item[1],
    )
    encoded = merging.encode_batch_fast([piece for piece, _ in vocabulary], add_special_tokens=False)
    pieces = [piece for (piece, index), found in zip(vocabulary, encoded, strict=True) if found.ids != [index]]
    return [bytelevel.decode(piece).decode("utf-8", "replace") for piece in pieces]


EMPTY: dict[str, object] = {
    "version": "1.0",
    "added_tokens": [],
    "normalizer": None,
    "pre_tokenizer": None,
    "post_processor": None,
    "decoder": None,
}

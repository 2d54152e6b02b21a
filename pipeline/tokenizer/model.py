"""The model section of the mtok format: BPE (0), WordPiece (1), Unigram (2)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from pipeline.tokenizer.binary import string, u8, u32
from pipeline.tokenizer.definition import Definition, unsupported
from pipeline.tokenizer.merges import merge_table
from pipeline.tokenizer.texts import Texts
from pipeline.tokenizer.vocabulary import pieces_by_id

BPE, WORD_PIECE, UNIGRAM = 0, 1, 2
UNKNOWN_PENALTY = 10.0
LOWEST = -1e4


def encode_model(definition: Definition) -> bytes:
    """The model section. Raises StageFailed naming a model or an option of it that the engine lacks."""
    if definition.kind not in ENCODERS:
        raise unsupported(f"model {definition.kind}")
    return ENCODERS[definition.kind](definition)


def _bpe(definition: Definition) -> bytes:
    model = definition.model
    for option in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(option):
            raise unsupported(f"BPE option {option}={model[option]!r}")
    pieces = pieces_by_id(definition)
    merges = merge_table(model.get("merges") or (), definition.vocabulary())
    size = len(pieces) + len(definition.aliases)
    head = u8(BPE) + u32(size) + u8(bool(model.get("byte_fallback"))) + u8(0) + u32(len(merges))
    return head + _entries(definition, pieces) + merges.astype("<u4").tobytes()


def _word_piece(definition: Definition) -> bytes:
    """max_input_chars_per_word counts bytes in the engine, characters in Hugging Face: four bytes a character."""
    model = definition.model
    pieces = pieces_by_id(definition)
    longest = 4 * int(model.get("max_input_chars_per_word", 100))
    head = u8(WORD_PIECE) + u32(len(pieces)) + string(model["unk_token"])
    return head + string(model.get("continuing_subword_prefix", "##")) + u32(longest) + _entries(definition, pieces)


def _unigram(definition: Definition) -> bytes:
    """An unknown character costs the lowest score minus 10, as in Hugging Face; the engine reads it at unk's slot."""
    model = definition.model
    if model.get("unk_id") is None:
        raise unsupported("Unigram model without an unknown token")
    pieces = pieces_by_id(definition)
    scores = [float(score) for _, score in model["vocab"]] + [LOWEST] * (len(pieces) - len(model["vocab"]))
    unknown = int(model["unk_id"])
    scores[unknown] = min(float(score) for _, score in model["vocab"]) - UNKNOWN_PENALTY
    head = u8(UNIGRAM) + u32(len(pieces)) + u32(unknown) + u8(bool(model.get("byte_fallback")))
    return head + _entries(definition, pieces, scores)


def _entries(definition: Definition, pieces: Sequence[str], scores: Sequence[float] | None = None) -> bytes:
    """str, u32 id (and f64 score) in the order of the engine's binary search: of equal texts the model's own first."""
    texts = Texts.of([*pieces, *definition.aliases])
    ids = np.array([*range(len(pieces)), *definition.aliases.values()], np.int64)
    vocabulary = definition.vocabulary()
    added = np.ones(len(pieces), bool)
    added[np.fromiter(vocabulary.values(), np.int64, len(vocabulary))] = False
    order = texts.order(behind=added[ids])
    ids = ids[order]
    after = [ids.astype("<u4").view(np.uint8).reshape(-1, 4)]
    if scores is not None:
        after.append(np.array(scores, "<f8")[ids].view(np.uint8).reshape(-1, 8))
    return texts.records(order, np.hstack(after))


ENCODERS: dict[str, Callable[[Definition], bytes]] = {"BPE": _bpe, "WordPiece": _word_piece, "Unigram": _unigram}

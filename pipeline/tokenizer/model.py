"""The model section of the mtok format: BPE (0), WordPiece (1), Unigram (2)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import StageFailed
from pipeline.tokenizer.binary import MAX_STRING, string, u8, u32
from pipeline.tokenizer.definition import Definition, unsupported
from pipeline.tokenizer.vocabulary import pieces_by_id, sorted_entries

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
    vocabulary = definition.vocabulary()
    pieces = pieces_by_id(definition)
    merges = merge_table(model.get("merges") or (), vocabulary)
    size = len(pieces) + len(definition.aliases)
    head = u8(BPE) + u32(size) + u8(bool(model.get("byte_fallback"))) + u8(0) + u32(len(merges))
    return head + _entries(definition, pieces) + merges.astype("<u4").tobytes()


def merge_table(merges: Sequence[str | Sequence[str]], vocabulary: Mapping[str, int]) -> NDArray[np.uint32]:
    """[n, 3] of (left id, right id, rank), sorted by the pair of ids as the engine's search wants them.

    A pair that occurs twice keeps its last rank, as in `tokenizers`.
    """
    pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in merges]
    if not pairs:
        return np.empty((0, 3), np.uint32)
    if set(map(len, pairs)) != {2}:
        raise StageFailed("tokenizer: a merge is not of two pieces", "check the tokenizer's files")
    try:
        flat = map(vocabulary.__getitem__, chain.from_iterable(pairs))
        ids = np.fromiter(flat, np.uint64, 2 * len(pairs))
    except KeyError as error:
        raise StageFailed(f"tokenizer: a merge uses the piece {error}, which the vocabulary does not have") from error
    keys = ids[0::2] << np.uint64(32) | ids[1::2]
    unique, from_end = np.unique(keys[::-1], return_index=True)
    ranks = len(pairs) - 1 - from_end
    return np.stack([unique >> np.uint64(32), unique & np.uint64(0xFFFFFFFF), ranks], axis=1).astype(np.uint32)


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
    """str, u32 id (and f64 score) in the order of the engine's binary search."""
    texts, ids = sorted_entries(pieces, frozenset(definition.vocabulary().values()), definition.aliases)
    after = [ids.astype("<u4").view(np.uint8).reshape(-1, 4)]
    if scores is not None:
        after.append(np.array(scores, "<f8")[ids].view(np.uint8).reshape(-1, 8))
    return _interleaved(texts, np.hstack(after))


def _interleaved(texts: Sequence[bytes], after: NDArray[np.uint8]) -> bytes:
    """Every text as u16 length and bytes, followed by its row of `after`: one pass of numpy instead of one a piece."""
    lengths = np.fromiter(map(len, texts), np.int64, len(texts))
    if lengths.max(initial=0) > MAX_STRING:
        raise unsupported(f"piece of {lengths.max()} bytes")
    ends = np.cumsum(2 + lengths + after.shape[1])
    starts = ends - after.shape[1] - lengths - 2
    data = np.empty(int(ends[-1]), np.uint8)
    is_text = np.ones(data.size, bool)
    before = lengths.astype("<u2").view(np.uint8).reshape(-1, 2)
    for at, column in [
        *((starts + byte, before[:, byte]) for byte in range(2)),
        *((ends - after.shape[1] + byte, after[:, byte]) for byte in range(after.shape[1])),
    ]:
        data[at], is_text[at] = column, False
    data[is_text] = np.frombuffer(b"".join(texts), np.uint8)
    return data.tobytes()


ENCODERS: dict[str, Callable[[Definition], bytes]] = {"BPE": _bpe, "WordPiece": _word_piece, "Unigram": _unigram}

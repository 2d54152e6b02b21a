"""The model section of the mtok format: BPE (0), WordPiece (1), Unigram (2)."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping

from pipeline.tokenizer.binary import MAX_STRING, u8, u32
from pipeline.tokenizer.definition import Definition, unsupported
from pipeline.tokenizer.vocabulary import Entry, pieces_by_id, sorted_entries

BPE, WORD_PIECE, UNIGRAM = 0, 1, 2


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
    head = u8(BPE) + u32(len(pieces)) + u8(bool(model.get("byte_fallback"))) + u8(0) + u32(len(merges))
    entries = sorted_entries(pieces, frozenset(vocabulary.values()))
    return head + b"".join(_entry(entry) for entry in entries) + b"".join(merges)


def merge_table(merges: Iterable[str | list[str]], vocabulary: Mapping[str, int]) -> list[bytes]:
    """Records (left id, right id, rank), sorted by the pair of ids as the engine's search wants them.

    A pair that occurs twice keeps its last rank, as in `tokenizers`.
    """
    ranks: dict[tuple[int, int], int] = {}
    for rank, merge in enumerate(merges):
        left, right = merge.split(" ") if isinstance(merge, str) else merge
        ranks[vocabulary[left], vocabulary[right]] = rank
    return [struct.pack("<III", left, right, rank) for (left, right), rank in sorted(ranks.items())]


def _entry(entry: Entry) -> bytes:
    text, index = entry
    if len(text) > MAX_STRING:
        raise unsupported(f"piece of {len(text)} bytes (id {index})")
    return struct.pack("<H", len(text)) + text + struct.pack("<I", index)


ENCODERS: dict[str, Callable[[Definition], bytes]] = {"BPE": _bpe}

"""The table of ids of the mtok format: every id has a slot, and the model's pieces come first on equal strings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import StageFailed
from pipeline.tokenizer import bytelevel
from pipeline.tokenizer.definition import Definition


def pieces_by_id(definition: Definition) -> list[str]:
    """Index = id. Added tokens fill their slots, gaps are empty (they decode to nothing, and no lookup finds them).

    The engine decodes an id only through this table: an added token that is not in it would decode to nothing. For a
    byte-level model an added token is written in the byte alphabet, since the decoder undoes exactly that.
    """
    table = {index: piece for piece, index in definition.vocabulary().items()}
    byte_level = definition.byte_level
    for token in definition.added_tokens:
        if table.get(token.id, token.content) == token.content:
            table[token.id] = bytelevel.encode(token.content) if byte_level else token.content
    if not table or min(table) < 0:
        raise StageFailed("tokenizer: the vocabulary is empty or has a negative id")
    return [table.get(index, "") for index in range(max(table) + 1)]


def sorted_entries(
    pieces: Sequence[str], model_ids: frozenset[int], aliases: Mapping[str, int] = MappingProxyType({})
) -> tuple[list[bytes], NDArray[np.uint32]]:
    """Texts in UTF-8 in the order of the engine's binary search, and their ids.

    Of equal texts the model's own piece is found first.
    """
    spelled = [*pieces, *aliases]
    texts = [piece.encode("utf-8") for piece in spelled]
    ids = [*range(len(pieces)), *aliases.values()]
    order = [at for at, index in enumerate(ids) if index in model_ids]
    order += [at for at, index in enumerate(ids) if index not in model_ids]
    order.sort(key=texts.__getitem__)  # stable
    return [texts[at] for at in order], np.array(ids, np.uint32)[order]

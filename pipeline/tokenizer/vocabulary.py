"""The table of ids of the mtok format: every id has a slot."""

from __future__ import annotations

import numpy as np

from pipeline.errors import StageFailed
from pipeline.tokenizer import bytelevel
from pipeline.tokenizer.definition import Definition


def pieces_by_id(definition: Definition) -> list[str]:
    """Index = id. Added tokens fill their slots, gaps are empty (they decode to nothing, and no lookup finds them).

    The engine decodes an id only through this table: an added token that is not in it would decode to nothing. For a
    byte-level model an added token is written in the byte alphabet, since the decoder undoes exactly that.
    """
    vocabulary = definition.vocabulary()
    ids = np.fromiter(vocabulary.values(), np.int64, len(vocabulary))
    size = 1 + max(int(ids.max(initial=-1)), *(token.id for token in definition.added_tokens), -1)
    if not size or min(int(ids.min(initial=0)), *(token.id for token in definition.added_tokens), 0) < 0:
        raise StageFailed("tokenizer: the vocabulary is empty or has a negative id")
    table = np.full(size, None, object)
    table[ids] = list(vocabulary)
    byte_level = definition.byte_level
    for token in definition.added_tokens:
        if table[token.id] in (None, token.content):
            table[token.id] = bytelevel.encode(token.content) if byte_level else token.content
    return ["" if piece is None else piece for piece in table.tolist()]

"""BPE merges, as tokenizer.json lists them, and as the engine's table wants them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from itertools import chain, repeat

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import StageFailed
from pipeline.tokenizer.definition import unsupported

Merges = Sequence[str] | Sequence[Sequence[str]]
NOT_TWO = StageFailed("tokenizer: a merge is not of two pieces", "check the tokenizer's files")
WIDTH = 21  # bits of a left id, right id or rank: three make a number of 64
HIGHEST = np.uint64(2**64 - 1)
BITS = 20  # of a hash: more than one for each of the largest vocabulary's pieces
DROPPED = np.uint64(64 - BITS)
SCATTER = np.uint64(0x9E3779B97F4A7C15)  # odd: lengths become even over 64 bits, too


def flat(merges: Merges) -> list[str]:
    """left, right, left, right, … of merges that are all "left right" (older files) or all [left, right].

    Raises StageFailed for a merge that is not of two pieces.
    """
    kinds = set(map(type, merges))
    if not kinds:
        return []
    if kinds == {str}:
        _require({1}, map(str.count, merges, repeat(" ")))  # type: ignore[arg-type]
        return " ".join(merges).split(" ")  # type: ignore[arg-type]
    if str in kinds:
        raise NOT_TWO
    _require({2}, map(len, merges))
    return list(chain.from_iterable(merges))


def _require(wanted: set[int], found: Iterable[int]) -> None:
    if set(found) != wanted:
        raise NOT_TWO


def merge_table(merges: Merges, vocabulary: Mapping[str, int]) -> NDArray[np.uint32]:
    """[n, 3] of (left id, right id, rank), sorted by the pair of ids as the engine's search wants them.

    A pair that occurs twice keeps its last rank, as in `tokenizers`. Raises StageFailed for a piece that is not in the
    vocabulary.
    """
    ids = piece_ids(flat(merges), vocabulary)
    left, right = ids[0::2], ids[1::2]
    if max(len(left), ids.max(initial=0)) >= 1 << WIDTH:
        raise unsupported(f"vocabulary or list of merges with more than {1 << WIDTH:,} entries")
    # Sorting numbers is several times faster than sorting their indices, so the rank is a part of the number.
    keys = np.sort((left << WIDTH | right) << WIDTH | np.arange(len(left)))
    last = np.ones(len(keys), bool)
    last[:-1] = keys[1:] >> WIDTH != keys[:-1] >> WIDTH
    columns = (keys[last, None] >> np.array([2 * WIDTH, WIDTH, 0])) & ((1 << WIDTH) - 1)
    table: NDArray[np.uint32] = columns.astype(np.uint32)
    return table


def piece_ids(
    pieces: Sequence[str], vocabulary: Mapping[str, int], hashed: Callable[[str], int] = hash
) -> NDArray[np.int64]:
    """The pieces' ids. Raises StageFailed for a piece that is not in the vocabulary.

    A dict that is asked a million times waits for memory each time, so all are found at once, by `hashed` (64 bits).
    Where all of the vocabulary have hashes of their own, that gives the dict's ids; otherwise the dict is asked.
    """
    known = _hashes(vocabulary, hashed)
    order = np.argsort(known)
    distinct = bool((np.diff(known[order]) != 0).all())
    found = _positions(known[order], _hashes(pieces, hashed)) if distinct else None
    ids = np.fromiter(vocabulary.values(), np.int64, len(vocabulary))
    if found is not None and (found < len(order)).all():
        return ids[order[found]]
    try:
        return np.fromiter(map(vocabulary.__getitem__, pieces), np.int64, len(pieces))
    except KeyError as error:
        raise StageFailed(f"tokenizer: a merge uses the piece {error}, which the vocabulary does not have") from error


def _hashes(texts: Collection[str], hashed: Callable[[str], int]) -> NDArray[np.uint64]:
    """Python hashes a text as it lies in memory, where U+0A0A is the same bytes as twice U+000A: lengths tell them."""
    lengths = np.fromiter(map(len, texts), np.uint64, len(texts))
    return np.fromiter(map(hashed, texts), np.int64, len(texts)).view(np.uint64) + lengths * SCATTER


def _positions(known: NDArray[np.uint64], wanted: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Where `wanted` are among the sorted `known`; len(known) for what is not there.

    Hashes are even over 64 bits: the upper bits say nearly where one stands, and few steps up from there find it.
    """
    counts = np.bincount((known >> DROPPED).astype(np.int64), minlength=1 << BITS)
    at = (np.cumsum(counts) - counts)[wanted >> DROPPED]
    padded = np.append(known, HIGHEST)
    behind = np.flatnonzero(padded[at] < wanted)
    while behind.size:
        at[behind] += 1
        behind = behind[padded[at[behind]] < wanted[behind]]
    return np.where(padded[at] == wanted, at, len(known))

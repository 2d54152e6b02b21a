"""BPE merges for a SentencePiece vocabulary, which ranks pieces by score and writes no merges of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def merges_from_scores(vocabulary: Mapping[str, int], scores: Sequence[float]) -> list[list[str]]:
    """Every way to make a piece out of two others, best score first.

    SentencePiece's BPE joins the adjacent pair whose union has the highest score; a merge's rank is therefore that of
    its result. Among the splits of one piece the order cannot matter to the result, and follows the parts' ids.
    """
    found = []
    for piece, number in vocabulary.items():
        for cut in range(1, len(piece)):
            left, right = piece[:cut], piece[cut:]
            if left in vocabulary and right in vocabulary:
                found.append((-scores[number], number, vocabulary[left], vocabulary[right], left, right))
    found.sort()
    return [[left, right] for *_, left, right in found]

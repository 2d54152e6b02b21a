"""Merges: both spellings of them, ids as the dict gives them, and what is refused."""

from __future__ import annotations

import pytest

from pipeline.errors import StageFailed
from pipeline.tokenizer.merges import flat, merge_table, piece_ids

VOCABULARY = {text: index for index, text in enumerate(["\n\n", "\u0a0a", "a", "b", "ab", "\t\t", "\u0909", "▁", "😀"])}


def test_both_spellings_are_read() -> None:
    assert flat(["a b", "ab c"]) == flat([["a", "b"], ["ab", "c"]]) == ["a", "b", "ab", "c"]
    assert flat([]) == [] and merge_table([], {}).shape == (0, 3)


@pytest.mark.parametrize("merges", [["a b c", "a"], ["ab"], [["a", "b", "c"], ["a"]], ["a b", ["a", "b"]]])
def test_a_merge_is_of_two_pieces(merges: list[str]) -> None:
    with pytest.raises(StageFailed, match="not of two pieces"):
        flat(merges)


def test_ids_are_the_dict_s() -> None:
    """Python's hash of "\\n\\n" and of U+0A0A is the same."""
    assert hash("\n\n") == hash("\u0a0a")
    pieces = [*VOCABULARY, *reversed(VOCABULARY)]
    assert piece_ids(pieces, VOCABULARY).tolist() == [VOCABULARY[piece] for piece in pieces]


def test_ids_are_the_dict_s_where_hashes_are_equal() -> None:
    assert piece_ids(["ab", "b"], VOCABULARY, hashed=lambda text: 5).tolist() == [4, 3]


def test_a_piece_that_the_vocabulary_lacks_is_named() -> None:
    with pytest.raises(StageFailed, match="the piece 'c', which"):
        merge_table([["a", "b"], ["a", "c"]], VOCABULARY)


def test_a_pair_keeps_its_last_rank() -> None:
    assert merge_table(["b a", "a b", "b a"], {"a": 0, "b": 1}).tolist() == [[0, 1, 1], [1, 0, 2]]


def test_more_than_fits_is_refused() -> None:
    with pytest.raises(StageFailed, match="more than 2,097,152"):
        merge_table([["a", "b"]], {"a": 0, "b": 1 << 21})

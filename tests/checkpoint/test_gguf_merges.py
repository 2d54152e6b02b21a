"""Merges derived from scores."""

from __future__ import annotations

from pipeline.checkpoint.gguf_merges import merges_from_scores


def test_best_score_first_and_every_split() -> None:
    vocabulary = {"a": 0, "b": 1, "c": 2, "ab": 3, "bc": 4, "abc": 5}
    scores = [-9.0, -9.0, -9.0, -1.0, -2.0, -3.0]
    assert merges_from_scores(vocabulary, scores) == [["a", "b"], ["b", "c"], ["a", "bc"], ["ab", "c"]]


def test_piece_without_parts_has_no_merge() -> None:
    assert merges_from_scores({"xyz": 0, "x": 1}, [0.0, 0.0]) == []


def test_equal_scores_follow_the_ids() -> None:
    assert merges_from_scores({"a": 0, "b": 1, "ba": 2, "ab": 3}, [0.0] * 4) == [["b", "a"], ["a", "b"]]

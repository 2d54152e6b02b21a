"""Verdicts on logits, the table, and the manifest that keeps them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import UserError
from pipeline.mnn.versions.matrix import Limits, Row, broken_floor, cells, judge, keep, limits_of, read_manifest
from pipeline.mnn.versions.trial import Trial

RANDOM = np.random.default_rng(0)
REFERENCE = RANDOM.normal(0, 3, (32, 50)).astype(np.float32)
LIMITS = Limits(max_kld=0.1, min_top1=0.9)
MANIFEST = {
    "config": {"quant": {"bits": 4}, "verify": {"thresholds": {"4": {"max_kld": 1.0, "min_top1": 0.5}}}},
    "files": {"llm.mnn": {"size": 1}},
}


def _trial(logits: np.ndarray | None, step: str = "done", failure: str = "") -> Trial:
    return Trial("3.5.0", step, failure, "Paris", logits)


def test_equal_logits_are_right() -> None:
    row = judge(_trial(REFERENCE.copy()), REFERENCE, LIMITS)
    assert (row.verdict, row.kld_mean, row.top1, row.relative_error) == ("right", 0.0, 1.0, 0.0)


def test_a_small_difference_is_within_the_limits() -> None:
    noisy = REFERENCE + RANDOM.normal(0, 0.01, REFERENCE.shape).astype(np.float32)
    row = judge(_trial(noisy), REFERENCE, LIMITS)
    assert row.verdict == "right"
    assert 0 < (row.kld_mean or 0) < 0.01


@pytest.mark.parametrize("wrong", [np.roll(REFERENCE, 1, axis=0), np.roll(REFERENCE, 1, axis=1), REFERENCE * -1])
def test_other_logits_are_wrong_whatever_it_answers(wrong: np.ndarray) -> None:
    row = judge(_trial(wrong), REFERENCE, LIMITS)
    assert row.verdict == "wrong"
    assert row.answer == "Paris"


def test_either_limit_suffices_to_be_wrong() -> None:
    noisy = REFERENCE + RANDOM.normal(0, 1, REFERENCE.shape).astype(np.float32)
    row = judge(_trial(noisy), REFERENCE, Limits())
    assert row.verdict == "right"
    assert row.kld_mean is not None
    assert row.top1 is not None
    assert judge(_trial(noisy), REFERENCE, Limits(max_kld=row.kld_mean / 2)).verdict == "wrong"
    assert judge(_trial(noisy), REFERENCE, Limits(min_top1=row.top1 + 0.01)).verdict == "wrong"


@pytest.mark.parametrize("wrong", [REFERENCE[:5], np.full_like(REFERENCE, np.nan)])
def test_logits_that_cannot_be_compared_are_wrong(wrong: np.ndarray) -> None:
    row = judge(_trial(wrong), REFERENCE, LIMITS)
    assert row.verdict == "wrong"
    assert row.failure


@pytest.mark.parametrize(
    ("step", "verdict"),
    [
        ("import", "no language model"),
        ("load", "does not load"),
        ("answer", "fails to answer"),
        ("logits", "fails to compute logits"),
    ],
)
def test_the_step_at_which_it_ended_is_named(step: str, verdict: str) -> None:
    row = judge(_trial(None, step, "SIGSEGV"), REFERENCE, LIMITS)
    assert (row.verdict, row.failure) == (verdict, "SIGSEGV")


def test_only_versions_from_the_floor_on_must_be_right() -> None:
    rows = [Row("3.10.0", "right"), Row("3.6.0", "wrong"), Row("3.5.0", "does not load"), Row("3.6.1", "right")]
    assert broken_floor(rows, "3.6.0") == ["3.6.0 (wrong)"]
    assert broken_floor(rows, "3.6.1") == []
    assert broken_floor(rows, "3.4.0") == ["3.6.0 (wrong)", "3.5.0 (does not load)"]


def test_the_table_has_a_row_for_each_and_never_a_long_answer() -> None:
    rows = [Row("3.6.1", "right", "", "x" * 100, 0.28, 0.71, 0.2), Row("3.4.0", "does not load", "SIGSEGV")]
    head, right, crashed = cells(rows)
    assert len(head) == len(right) == len(crashed)
    assert right[:5] == ["3.6.1", "right", "0.2800", "71.0%", "0.2"]
    assert len(right[5]) <= 50
    assert crashed[2:] == ["", "", "", "SIGSEGV"]


def test_the_manifest_keeps_what_it_had_and_gets_the_rows(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps(MANIFEST))
    keep(tmp_path, [Row("3.4.0", "does not load", "SIGSEGV"), Row("3.6.1", "wrong")])
    keep(tmp_path, [Row("3.6.1", "right", "", "Paris", 1 / 3, 1.0, 0.0)])
    found = read_manifest(tmp_path)
    assert found.pop("engines") == {
        "3.4.0": {"verdict": "does not load", "failure": "SIGSEGV"},
        "3.6.1": {"verdict": "right", "answer": "Paris", "kld_mean": 0.333333, "top1": 1.0, "relative_error": 0.0},
    }
    assert found == MANIFEST
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]


def test_the_limits_are_the_gates_for_the_products_bits() -> None:
    assert limits_of(MANIFEST) == Limits(1.0, 0.5)


@pytest.mark.parametrize(("content", "said"), [(None, "holds no product"), ("{", "not JSON"), ("[]", "not a JSON")])
def test_a_manifest_that_is_none(tmp_path: Path, content: str | None, said: str) -> None:
    if content is not None:
        (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(UserError, match=said):
        read_manifest(tmp_path)

"""The verdict: what passes, what fails, what did not run, and the one line that a person reads."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from pipeline.errors import StageFailed, UserError
from pipeline.verify.gate import Check, Report, at_least, at_most, enforce, equal, limits_for, not_run, summary

GOOD = Check("something", 1, 1, True)


@pytest.mark.parametrize(("value", "limit", "passed"), [(1.0, 1.0, True), (1.1, 1.0, False), (9.0, None, True)])
def test_at_most(value: float, limit: float | None, passed: bool) -> None:
    assert at_most("x", value, limit).passed is passed


@pytest.mark.parametrize(("value", "limit", "passed"), [(1.0, 1.0, True), (0.9, 1.0, False), (0.0, None, True)])
def test_at_least(value: float, limit: float | None, passed: bool) -> None:
    assert at_least("x", value, limit).passed is passed


@pytest.mark.parametrize("limit", [1.0, None])
def test_not_a_number_never_passes(limit: float | None) -> None:
    assert at_most("x", math.nan, limit).passed is False
    assert at_least("x", math.nan, limit).passed is False


def test_infinity_fails_any_upper_limit() -> None:
    assert at_most("x", math.inf, 1e300).passed is False


def test_one_failed_check_fails_the_report() -> None:
    report = Report("fast", [GOOD, equal("ids", 3, 0, "at 7")])
    assert not report.passed
    assert [check.name for check in report.failed] == ["ids"]


def test_checks_that_did_not_run_neither_pass_nor_fail() -> None:
    assert Report("fast", [GOOD, not_run("KL", "too big")]).passed
    assert not Report("fast", [not_run("KL", "too big")]).passed
    assert not Report("fast").passed


def test_report_on_disk_lists_every_check(tmp_path: Path) -> None:
    report = Report("full", [GOOD, at_most("KL", 2.5, 1.0), not_run("top-1", "no room")], {"answer": "Paris"})
    written = json.loads(report.write(tmp_path).read_text("utf-8"))
    assert written["passed"] is False
    assert written["mode"] == "full"
    names = ("name", "value", "limit", "passed", "reason")
    assert [tuple(check[name] for name in names) for check in written["checks"]] == [
        ("something", 1, 1, True, ""),
        ("KL", 2.5, 1.0, False, ""),
        ("top-1", None, None, None, "no room"),
    ]
    assert written["figures"] == {"answer": "Paris"}


def test_report_is_strict_json_even_for_infinite_figures(tmp_path: Path) -> None:
    report = Report("fast", [at_most("KL", math.nan, 1.0)], {"logits": {"kld": math.inf}})
    text = report.write(tmp_path).read_text("utf-8")
    assert json.loads(text, parse_constant=pytest.fail)["figures"]["logits"]["kld"] == "inf"


def test_report_bytes_depend_on_the_content_only(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        Report("fast", [GOOD], {"k": 1}).write(tmp_path / name)
    assert (tmp_path / "a/report.json").read_bytes() == (tmp_path / "b/report.json").read_bytes()


def test_refusal_is_one_line_with_check_value_limit_and_report(tmp_path: Path) -> None:
    report = Report("fast", [GOOD, at_most("mean KL divergence", 2.51234, 1.0), equal("ids", 3, 0)])
    with pytest.raises(StageFailed) as refusal:
        enforce(report, tmp_path / "report.json")
    line = str(refusal.value)
    assert "\n" not in line
    for part in (
        "mean KL divergence",
        "2.512",
        "limit 1",
        "1 more",
        str(tmp_path / "report.json"),
        "verify.thresholds",
    ):
        assert part in line
    assert refusal.value.exit_code == 1


def test_refusal_of_a_multi_line_answer_is_still_one_line(tmp_path: Path) -> None:
    report = Report("fast", [Check("greedy answer", "\n\n", "valid text", False, "empty\nor not")])
    with pytest.raises(StageFailed) as refusal:
        enforce(report, tmp_path / "report.json")
    assert "\n" not in str(refusal.value)


def test_passed_report_raises_nothing(tmp_path: Path) -> None:
    enforce(Report("fast", [GOOD]), tmp_path / "report.json")


def test_a_report_in_which_nothing_ran_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StageFailed, match="no check ran"):
        enforce(Report("fast", [not_run("KL", "too big")]), tmp_path / "report.json")


def test_limits_are_those_of_the_bits() -> None:
    assert limits_for({"4": {"max_kld": 1.0}, "16": {}}, 4) == {"max_kld": 1.0}


def test_bits_without_limits_are_the_requests_mistake() -> None:
    with pytest.raises(UserError, match=r"4, 16 bits, not for 3 → add verify\.thresholds\.3"):
        limits_for({"16": {}, "4": {}}, 3)


def test_summary_says_what_ran_and_how_close_it_was() -> None:
    figures = {"logits": {"kld_mean": 0.24531, "top1": 0.73}, "answer": "Paris\nis it"}
    line = summary(Report("fast", [GOOD, not_run("x", "y"), equal("ids", 1, 0)], figures))
    assert line == "1 of 2 checks passed; 1 not run (x); KL 0.2453, top-1 73.0%; answer “Paris is it”"

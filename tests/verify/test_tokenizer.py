"""The gate's verdict on what the parity stage has measured."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.verify.tokenizer import PROMPTS, TEXTS, parity_checks

EXAMPLE = {"what": "encode", "example": "'a'", "expected": "[1]", "actual": "[2]"}
TEMPLATE = {"what": "template", "example": "two turns", "expected": "'x'", "actual": "'y'"}


def _told(crash: str = "", fallbacks: tuple[str, ...] = (), **counts: Any) -> dict[str, Any]:
    zero = dict.fromkeys(
        (
            "encode_differences",
            "explained",
            "decode_differences",
            "decode_explained",
            "template_differences",
            "refused",
        ),
        0,
    )
    parity = {"texts": 1_500, "conversations": 43, "examples": [], **zero, **counts}
    return {
        "limits": ["words are cut"],
        "fallbacks": list(fallbacks),
        "crash": crash,
        "parity": None if crash else parity,
    }


def test_equality_passes_and_says_how_much_was_compared() -> None:
    texts, prompts = parity_checks(_told(refused=6), accept_limits=False)
    assert (texts.name, texts.passed, texts.value) == (TEXTS, True, "1,500 texts equal")
    assert (prompts.name, prompts.passed, prompts.value) == (PROMPTS, True, "37 prompts equal")


@pytest.mark.parametrize("accept", [True, False])
@pytest.mark.parametrize("what", ["encode_differences", "decode_differences"])
def test_a_difference_without_a_known_cause_always_fails(what: str, accept: bool) -> None:
    texts = parity_checks(_told(**{what: 1}, explained=3, examples=[EXAMPLE]), accept)[0]
    assert texts.passed is False
    assert texts.reason == "encode of 'a': Hugging Face [1], engine [2]"
    assert texts.value == "4 of 3,000 differ, 3 by a known limit"


@pytest.mark.parametrize("what", ["explained", "decode_explained"])
def test_a_known_limit_is_refused_with_its_reason_and_the_way_to_accept_it(what: str) -> None:
    told = _told(**{what: 2}, examples=[EXAMPLE])
    refused, accepted = (parity_checks(told, accept)[0] for accept in (False, True))
    assert refused.passed is False and accepted.passed is True
    for check in (refused, accepted):
        assert "engine [2]; words are cut" in check.reason
        assert "target.accept_tokenizer_limits=true" in check.reason


@pytest.mark.parametrize("accept", [True, False])
def test_other_prompts_and_a_crash_fail(accept: bool) -> None:
    prompts = parity_checks(_told(template_differences=2, examples=[EXAMPLE, TEMPLATE]), accept)[1]
    assert (prompts.passed, prompts.value) == (False, "2 of 43 prompts differ")
    assert prompts.reason == "template of two turns: Hugging Face 'x', engine 'y'"
    (crash,) = parity_checks(_told(crash="the engine's tokenizer crashed (signal 11)"), accept)
    assert crash.passed is False and "signal 11" in crash.reason


def test_no_template_and_a_plain_one_are_listed_as_not_compared() -> None:
    assert parity_checks(_told(conversations=0), False)[1].passed is None
    plain = parity_checks(_told(fallbacks=("plain chat template, on request: Mod",), conversations=0), False)[1]
    assert plain.passed is None and plain.reason == "plain chat template, on request: Mod"

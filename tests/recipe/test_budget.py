"""One budget decides: the person's, or the preset's where the person gave none."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import UserError
from pipeline.recipe.budget import BUDGETS
from pipeline.recipe.compose import compose
from pipeline.recipe.conf import SHIPPED


def budgets(*overrides: str) -> dict[str, float]:
    (composed,) = compose(["quant=auto", *overrides], [SHIPPED], Path("/w"))
    found = {key: getattr(composed.recipe.quant, key) for key in BUDGETS}
    assert {key: composed.config["quant"][key] for key in BUDGETS} == found
    return {key: value for key, value in found.items() if value is not None}


def test_the_preset_has_one() -> None:
    assert list(budgets()) == ["target_bpw"]


@pytest.mark.parametrize(("key", "value"), [("target_bytes", 10**9), ("max_kld", 0.5), ("target_bpw", 7.0)])
def test_a_given_one_takes_the_place_of_the_presets(key: str, value: float) -> None:
    assert budgets(f"quant.{key}={value}") == {key: value}


def test_two_given_ones_are_refused() -> None:
    with pytest.raises(UserError, match=r"quant\.target_bytes and quant\.max_kld are two budgets, and one decides"):
        budgets("quant.max_kld=0.1", "quant.target_bytes=90000000")
    assert budgets("quant.target_bpw=null", "quant.max_kld=0.1") == {"max_kld": 0.1}

"""Tied or separate: one decision."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.checkpoint.tied import embedding_mode, lm_head_bits
from pipeline.errors import UserError


def layout(tied: bool = True, out: int = 100, keep: bool = False) -> dict[str, Any]:
    return {
        "tied": tied, "lm_head": "lm_head", "embedding": {"rows": 100, "columns": 64},
        "linears": [{"name": "lm_head", "out_features": out, "in_features": 64, "keep": keep}]}  # fmt: skip


def recipe(mode: str = "auto", **quant: Any) -> dict[str, Any]:
    return {"embedding": {"mode": mode}, "quant": {"bits": 4, **quant}}


@pytest.mark.parametrize(
    ("quant", "bits"),
    [
        ({"bits": 4}, 4),
        ({"bits": 4, "lm_bits": 8}, 8),
        ({"bits": 4, "lm_bits": None}, 4),
        ({"bits": 4, "lm_bits": 8, "rules": [{"pattern": "q_proj", "bits": 2}]}, 8),
        ({"bits": 4, "rules": [{"pattern": "lm_head", "bits": 6}]}, 6),
        ({"bits": 4, "rules": [{"pattern": "lm_head", "keep": True, "bits": None}]}, 16),
        ({"bits": 4, "lm_bits": 8, "rules": [{"pattern": "head", "block": 32}, {"pattern": "lm_head", "bits": 3}]}, 8),
    ],
)
def test_lm_head_bits(quant: dict[str, Any], bits: int) -> None:
    assert lm_head_bits(quant, "lm_head") == bits


def test_auto_follows_the_model_and_what_the_engine_can_read() -> None:
    assert embedding_mode(recipe(), layout()) == "tied"
    assert embedding_mode(recipe(bits=16), layout()) == "tied"
    assert embedding_mode(recipe(), layout(tied=False)) == "separate"
    assert embedding_mode(recipe(lm_bits=6), layout()) == "separate"
    assert embedding_mode(recipe(lm_bits=6), layout(keep=True)) == "tied"
    assert embedding_mode(recipe("separate"), layout()) == "separate"


@pytest.mark.parametrize(
    ("wanted", "facts", "message"),
    [
        (recipe("tied"), layout(tied=False), "an lm_head of its own"),
        (recipe("tied", lm_bits=6), layout(), "the lm_head has 6"),
        (recipe("tied"), layout(out=101), "101×64"),
        (recipe("twisted"), layout(), "embedding.mode=twisted"),
    ],
)
def test_tied_that_cannot_be(wanted: dict[str, Any], facts: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        embedding_mode(wanted, facts)
    assert caught.value.next_step

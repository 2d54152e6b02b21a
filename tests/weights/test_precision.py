"""Which bits, block and symmetry a linear gets, and what is refused before a weight is read."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.errors import UserError
from pipeline.weights.layout import Layout, Linear, Part
from pipeline.weights.precision import Precision, resolve

QUANT = {"bits": 4, "block": 64, "symmetric": False, "scale_bits": 16, "algorithm": "rtn"}


def linear(name: str, size: int = 576, keep: bool = False) -> Linear:
    return Linear(name, 64, size, (Part(name),), keep=keep)


def resolved(layout: Layout, **changes: Any) -> dict[str, Precision]:
    return resolve(layout, {**QUANT, **changes})


LAYOUT = Layout((linear("layers.0.v_proj"), linear("layers.0.down_proj", 1536), linear("lm_head")), tied=True)


def test_head_has_its_own_bits_and_block() -> None:
    found = resolved(LAYOUT, lm_bits=8, lm_block=32)
    assert found["lm_head"] == Precision(8, 32)
    assert found["layers.0.v_proj"] == Precision(4, 64)
    assert resolved(LAYOUT, lm_bits=8)["lm_head"] == Precision(8, 64)
    assert resolved(LAYOUT)["lm_head"] == Precision(4, 64)


def test_block_zero_is_per_channel() -> None:
    assert resolved(LAYOUT, block=0)["layers.0.down_proj"].block == 1536
    assert resolved(LAYOUT, lm_block=0)["lm_head"].block == 576


def test_block_that_does_not_divide_names_tensor_size_and_neighbours() -> None:
    with pytest.raises(UserError, match=r"128 does not divide the 576 inputs of 'layers.0.v_proj' → use 96 or 144"):
        resolved(LAYOUT, block=128)


def test_tied_head_only_in_bits_that_the_embedding_reader_knows() -> None:
    with pytest.raises(UserError, match=r"'lm_head' is also the embedding table.*4 or 8 or 16 bits, not 3"):
        resolved(LAYOUT, bits=3)
    assert resolved(LAYOUT, bits=3, lm_bits=8)["layers.0.v_proj"].bits == 3
    assert resolved(Layout(LAYOUT.linears), bits=3)["lm_head"].bits == 3


def test_kept_linears_stay_fp16() -> None:
    assert resolved(Layout((linear("router", keep=True), linear("x"))))["router"] == Precision(16)
    assert set(resolved(LAYOUT, bits=16).values()) == {Precision(16)}


def test_first_matching_rule_wins() -> None:
    rules = [
        {"pattern": "v_proj$", "bits": 8, "block": None, "symmetric": True, "algorithm": None, "keep": False},
        {"pattern": "layers", "bits": None, "block": 32, "symmetric": None, "algorithm": None, "keep": False},
        {"pattern": "lm_head", "keep": True},
    ]
    found = resolved(LAYOUT, rules=rules)
    assert found["layers.0.v_proj"] == Precision(8, 64, symmetric=True)
    assert found["layers.0.down_proj"] == Precision(4, 32)
    assert found["lm_head"] == Precision(16)


def test_rule_without_a_match_is_an_error() -> None:
    with pytest.raises(UserError, match=r"the rule 'mlp\\\.gate' matches no linear.*names look like layers.0.v_proj"):
        resolved(LAYOUT, rules=[{"pattern": r"mlp\.gate", "bits": 8}])


def test_rule_that_is_no_expression_is_an_error() -> None:
    with pytest.raises(UserError, match=r"the rule '\*' is not a regular expression"):
        resolved(LAYOUT, rules=[{"pattern": "*", "bits": 8}])

"""Mixture-of-experts models and calibrated algorithms: refused before work, unless a rule takes the experts out."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import Qwen3MoeConfig

from pipeline.errors import UserError
from pipeline.recipe.compose import compose
from pipeline.recipe.conf import SHIPPED
from pipeline.recipe.schema import Recipe
from pipeline.recipe.validate import validate_against_model

WAY_OUT = "quant.rules=[{pattern: experts, algorithm: mse}]"


def recipe(*overrides: str) -> Recipe:
    (composed,) = compose(overrides, [SHIPPED], Path("/w"))
    return composed.recipe


@pytest.mark.parametrize("quant", ["int4-wmse", "int4-gptq", "int4-awq", "auto"])
@pytest.mark.parametrize("model", ["qwen3-30b-a3b", "mixtral-8x7b", "granite-3.1-1b-a400m"])
def test_calibrated_experts_are_refused_with_the_way_out(model: str, quant: str) -> None:
    with pytest.raises(UserError, match="cannot calibrate experts that are kept in one stacked tensor") as error:
        recipe(f"model={model}", f"quant={quant}")
    assert WAY_OUT in str(error.value)
    assert recipe(f"model={model}", f"quant={quant}", WAY_OUT).quant.algorithm in ("wmse", "gptq", "awq")


def test_what_needs_no_calibration_and_models_without_experts_pass() -> None:
    recipe("model=qwen3-30b-a3b", "quant=int4-hqq")
    recipe("model=qwen3-4b", "quant=int4-gptq")
    recipe("model=qwen3-30b-a3b", "quant=int4-gptq", "quant.rules=[{pattern: experts, bits: 16}]")


def test_a_rule_for_something_else_does_not_help() -> None:
    with pytest.raises(UserError, match="cannot calibrate experts"):
        recipe("model=qwen3-30b-a3b", "quant=int4-gptq", "quant.rules=[{pattern: v_proj, algorithm: mse}]")


def test_a_local_model_is_told_by_its_config() -> None:
    found = recipe("model=local", "model.path=/m", "quant=int4-gptq")
    with pytest.raises(UserError, match=r"gptq cannot calibrate experts .* \(qwen3_moe\)"):
        validate_against_model(found, Qwen3MoeConfig().to_dict())

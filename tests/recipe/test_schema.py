"""The schema against those who read it: every stage's declared paths are keys of a recipe."""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import fields, is_dataclass

import pytest

import pipeline.stages
from pipeline.build.stage import Stage
from pipeline.recipe import typed
from pipeline.recipe.conf import GROUPS, SHIPPED
from pipeline.recipe.schema import Recipe

STAGES = [
    stage
    for module in pkgutil.iter_modules(pipeline.stages.__path__)
    if isinstance(stage := getattr(importlib.import_module(f"pipeline.stages.{module.name}"), "STAGE", None), Stage)
]


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_a_stage_reads_keys_that_recipes_have(stage: Stage) -> None:
    for path in stage.config:
        typed.type_at(Recipe, path)


def test_there_are_stages_to_ask() -> None:
    assert {"weights", "config", "embedding", "link"} <= {stage.name for stage in STAGES}


def test_every_group_is_a_section_with_options() -> None:
    sections = {spec.name for spec in fields(Recipe) if is_dataclass(typed.hints(Recipe)[spec.name])}
    assert set(GROUPS) <= sections
    for group in GROUPS:
        assert list((SHIPPED / group).glob("*.yaml"))


def test_a_recipe_has_defaults_for_everything() -> None:
    assert typed.build(Recipe, {}) == Recipe()


def test_two_recipes_share_nothing_mutable() -> None:
    first, second = Recipe(), Recipe()
    first.target.runtime["x"] = 1
    first.quant.rules.append(None)  # type: ignore[arg-type]
    assert second == Recipe()

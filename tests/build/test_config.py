"""Subsets of a recipe, and the guard around them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.build.config import UndeclaredConfig, flatten, strict, subset

RECIPE = {
    "quant": {"bits": 4, "block": 64, "rules": [{"keep": True}]},
    "target": {"runtime": {"threads": 2}},
    "name": "x",
}


def test_only_the_declared_paths_are_there() -> None:
    assert subset(RECIPE, ["quant.bits", "target.runtime"]) == {
        "quant": {"bits": 4},
        "target": {"runtime": {"threads": 2}},
    }


def test_a_path_that_no_recipe_has_is_a_bug_of_the_stage() -> None:
    with pytest.raises(UndeclaredConfig, match=r"no recipe has 'quant.bitz'"):
        subset(RECIPE, ["quant.bitz"])


def test_a_leaf_is_no_parent() -> None:
    with pytest.raises(UndeclaredConfig, match=r"name.first"):
        subset(RECIPE, ["name.first"])


@pytest.mark.parametrize("read", [lambda c: c["name"], lambda c: c.get("name"), lambda c: "name" in c])
def test_every_way_of_reading_is_guarded(read: Any) -> None:
    with pytest.raises(UndeclaredConfig, match=r"'name'"):
        read(strict(subset(RECIPE, ["quant.bits"]), ["quant.bits"]))


def test_inside_a_declared_path_missing_keys_are_plain() -> None:
    guarded = strict(subset(RECIPE, ["target.runtime"]), ["target.runtime"])
    assert guarded["target"]["runtime"].get("precision") is None
    with pytest.raises(KeyError):
        guarded["target"]["runtime"]["precision"]


def test_the_error_names_the_whole_path() -> None:
    guarded = strict(subset(RECIPE, ["quant.bits"]), ["quant.bits"])
    with pytest.raises(UndeclaredConfig, match=r"reads 'quant.block'"):
        guarded["quant"]["block"]


KEYS = st.text("abc", min_size=1, max_size=2)
TREES = st.recursive(st.integers(), lambda inner: st.dictionaries(KEYS, inner, min_size=1, max_size=3), max_leaves=8)


@given(st.dictionaries(KEYS, TREES, min_size=1))
def test_all_leaves_declared_is_the_recipe_itself(recipe: dict[str, Any]) -> None:
    assert subset(recipe, flatten(recipe)) == recipe


@given(st.dictionaries(KEYS, TREES, min_size=1), st.data())
def test_what_is_not_declared_cannot_change_the_subset(recipe: dict[str, Any], data: st.DataObject) -> None:
    leaves = flatten(recipe)
    declared = data.draw(st.sets(st.sampled_from(sorted(leaves))))
    kept = flatten(subset(recipe, declared))
    assert {path: value for path, value in kept.items() if value != {}} == {path: leaves[path] for path in declared}

"""Plain data into dataclasses: strict types, unknown keys named, nothing converted behind a person's back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from pipeline.errors import UserError
from pipeline.recipe import typed
from pipeline.recipe.schema import Quant, Recipe, Rule, Thresholds, Verify


@dataclass
class Inner:
    size: float = 1.0
    names: list[str] = field(default_factory=list)


@dataclass
class Outer:
    text: str = ""
    count: int = 0
    on: bool = False
    maybe: int | None = None
    inner: Inner = field(default_factory=Inner)
    free: dict[str, Any] = field(default_factory=dict)


def test_missing_keys_take_the_defaults() -> None:
    assert typed.build(Outer, {}) == Outer()


def test_nested_values_are_built() -> None:
    built = typed.build(Outer, {"inner": {"size": 2, "names": ["a"]}, "free": {"x": [1]}, "maybe": 3})
    assert built == Outer(inner=Inner(2.0, ["a"]), free={"x": [1]}, maybe=3)
    assert type(built.inner.size) is float


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"text": 1230000.0}, "text must be text, not 1230000.0"),
        ({"text": None}, "text must be text, not null"),
        ({"text": True}, "text must be text, not true"),
        ({"count": "7"}, "count must be a whole number, not '7'"),
        ({"count": 7.0}, "count must be a whole number, not 7.0"),
        ({"count": True}, "count must be a whole number, not true"),
        ({"on": 1}, "on must be true or false, not 1"),
        ({"on": "yes"}, "on must be true or false, not 'yes'"),
        ({"inner": {"size": True}}, "inner.size must be a number, not true"),
        ({"inner": {"names": "abc"}}, "inner.names must be a list, not 'abc'"),
        ({"inner": {"names": ["a", 3]}}, "inner.names[1] must be text, not 3"),
        ({"inner": 4}, "inner must be a mapping of keys, not 4"),
        ({"free": []}, "free must be a mapping of keys, not []"),
    ],
)
def test_a_value_of_another_type_is_refused(data: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        typed.build(Outer, data)
    assert error.value.message == message


def test_an_unknown_key_is_named_with_its_path_and_nearest_match() -> None:
    with pytest.raises(UserError, match=r"unknown key 'inner\.sise'\. Did you mean 'size'\?"):
        typed.build(Outer, {"inner": {"sise": 2}})


def test_null_is_a_value_only_where_the_schema_says_so() -> None:
    assert typed.build(Outer, {"maybe": None}).maybe is None
    with pytest.raises(UserError, match="count must be a whole number, not null"):
        typed.build(Outer, {"count": None})


def test_a_recipe_survives_the_way_to_plain_data_and_back() -> None:
    recipe = Recipe(
        quant=Quant(rules=[Rule("lm_head", bits=8, keep=True)], max_kld=0.1),
        verify=Verify(thresholds={"4": Thresholds(min_top1=0.5)}),
    )
    assert typed.build(Recipe, typed.plain(recipe)) == recipe


@pytest.mark.parametrize(
    ("path", "kind"),
    [("quant.bits", int), ("model.package.file", str), ("quant.lm_bits", int | None), ("target.runtime.top_k", Any)],
)
def test_types_are_found_by_path(path: str, kind: Any) -> None:
    assert typed.type_at(Recipe, path) == kind


def test_types_below_a_dictionary_of_dataclasses_are_found() -> None:
    assert typed.type_at(Recipe, "verify.thresholds.4.min_top1") == (float | None)


@pytest.mark.parametrize("path", ["quant.bitz", "quant.bits.x", "nothing", "quant.rules.0"])
def test_a_path_that_the_schema_lacks_is_a_key_error(path: str) -> None:
    with pytest.raises(KeyError):
        typed.type_at(Recipe, path)


def test_leaves_name_every_key_once() -> None:
    leaves = typed.leaves(Recipe)
    assert len(leaves) == len(set(leaves))
    assert {"name", "quant.bits", "model.package.file", "target.graph.fuse_c4", "cache.remote_mode"} <= set(leaves)
    for path in leaves:
        typed.type_at(Recipe, path)

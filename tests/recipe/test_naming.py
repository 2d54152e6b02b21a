"""Product names: readable, different for different recipes, a folder of their own."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import UserError
from pipeline.recipe import naming
from pipeline.recipe.compose import compose
from pipeline.recipe.conf import SHIPPED
from pipeline.recipe.schema import Adapter, Model, Quant, Recipe


def name(*overrides: str, cwd: str = "/here") -> str:
    (composed,) = compose(overrides, [SHIPPED], Path(cwd))
    return composed.name


def test_a_plain_recipe_is_model_and_quant() -> None:
    assert name("model=qwen3-0.6b", "quant=int8") == "qwen3-0.6b-int8"


def test_a_given_name_wins() -> None:
    assert name("quant.block=32", "name=my.model_1") == "my.model_1"


@pytest.mark.parametrize(
    "silent",
    ["verify=off", "verify=full", "verify.length=128", "cache.dir=/x", "cache.remote_mode=off", "quant.block=64"],
)
def test_what_does_not_change_the_product_does_not_change_its_name(silent: str) -> None:
    assert name(silent) == "smollm2-135m-int4"


def test_other_overrides_add_a_short_hash() -> None:
    hashed = name("quant.block=32")
    stem, _, digest = hashed.rpartition("-")
    assert stem == "smollm2-135m-int4"
    assert len(digest) == naming.HASH_LENGTH and int(digest, 16) >= 0


def test_the_hash_does_not_know_order_folder_or_explicit_defaults() -> None:
    expected = name("quant.block=32", "embedding=separate")
    assert name("embedding=separate", "quant.block=32") == expected
    assert name("embedding=separate", "quant.block=32", "quant.symmetric=false", cwd="/elsewhere") == expected


def test_different_overrides_have_different_names() -> None:
    overrides = [
        "quant.block=32",
        "quant.block=128",
        "quant.lm_bits=4",
        "embedding=separate",
        "target=mnn-3.6.0",
        "target.runtime.reuse_kv=true",
        "quant.rules=[{pattern: lm_head, bits: 8}]",
        "graph.allow_approximate=true",
    ]
    assert len({name(override) for override in overrides}) == len(overrides)


def test_the_name_is_the_same_in_every_checkout() -> None:
    assert name("quant.block=32") == "smollm2-135m-int4-" + naming.short_hash({"quant.block": 32})


def test_a_local_folder_lends_its_name() -> None:
    assert name("model=local", "model.path=models/My Model").startswith("My-Model-int4-")
    assert name("model=local", "model.path=x/tiny.Q4_1.gguf").startswith("tiny.Q4_1-int4-")


def test_two_folders_of_one_name_are_two_products() -> None:
    assert name("model=local", "model.path=a/model") != name("model=local", "model.path=b/model")


def test_an_adapter_is_named() -> None:
    assert name("adapter=merge", "adapter.path=loras/pirate").startswith("smollm2-135m-int4-merge-pirate-")
    recipe = Recipe(model=Model(name="m"), quant=Quant(name="q"), adapter=Adapter("split", "/x/y"))
    assert naming.product_name(recipe, {}) == "m-q-split-y"


@pytest.mark.parametrize("bad", ["..", ".", ".cache", "a/b", "a=b", "-x", " ", "a b", "ä", "a\nb", ""])
def test_a_name_that_is_no_folder_is_refused(bad: str) -> None:
    with pytest.raises(UserError, match="cannot name a product's folder"):
        naming.refuse_bad_name(bad)


@pytest.mark.parametrize("good", ["a", "smollm2-135m-int4", "A.b_c+d-1"])
def test_a_good_name_passes(good: str) -> None:
    naming.refuse_bad_name(good)


def test_names_that_differ_in_case_only_collide() -> None:
    with pytest.raises(UserError, match="both write artifacts/a"):
        naming.refuse_collisions([("A", ("x=1",)), ("a", ("x=2",))])
    naming.refuse_collisions([("a", ()), ("b", ())])


def test_slug_keeps_what_a_file_name_may_hold() -> None:
    assert naming.slug("sub/model name (v1.5)") == "sub-model-name-v1.5"


def test_difference_sees_changes_additions_and_losses() -> None:
    ours = {"a": {"x": 1, "new": 2}, "b": [1], "verify": {"mode": "off"}}
    theirs = {"a": {"x": 0, "old": 3}, "b": [1], "verify": {"mode": "fast"}}
    assert naming.difference(ours, theirs) == {"a.x": 1, "a.new": 2, "a.old": None}


def test_every_shipped_combination_has_a_name_of_its_own() -> None:
    names = [composed.name for composed in compose(["model=glob(qwen3*)", "quant=int4,int8"], [SHIPPED])]
    assert len(names) == len(set(names)) > 10

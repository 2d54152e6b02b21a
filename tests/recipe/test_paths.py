"""Paths in recipes."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import UserError
from pipeline.recipe import paths
from pipeline.recipe.schema import Adapter, Cache, Calibration, Model, Quant, Recipe, Target


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("", ""),
        ("a", "/w/a"),
        ("./a/../b", "/w/b"),
        ("/x/y", "/x/y"),
        ("../z", "/z"),
        ("a b/ü", "/w/a b/ü"),
        (".", "/w"),
    ],
)
def test_relative_paths_start_at_the_given_folder(given: str, expected: str) -> None:
    assert paths.absolute(given, Path("/w")) == expected


def test_the_home_folder_is_expanded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    assert paths.absolute("~/m", Path("/w")) == "/home/someone/m"


def test_symbolic_links_stay(tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    (tmp_path / "link").symlink_to("target")
    assert paths.absolute("link", tmp_path) == str(tmp_path / "link")


def test_every_path_of_a_recipe_becomes_absolute() -> None:
    recipe = Recipe(
        model=Model(path="m", gptq_path="g"),
        adapter=Adapter(path="l"),
        target=Target(mnnconvert="c"),
        cache=Cache(dir="d", remote="r"),
        quant=Quant(calibration=Calibration(text="t.txt")),
    )
    paths.make_absolute(recipe, Path("/w"))
    assert (recipe.model.path, recipe.model.gptq_path, recipe.adapter.path) == ("/w/m", "/w/g", "/w/l")
    assert (recipe.target.mnnconvert, recipe.cache.dir, recipe.cache.remote) == ("/w/c", "/w/d", "/w/r")
    assert recipe.quant.calibration.text == "/w/t.txt"


@pytest.mark.parametrize("text", ["pydoc", "self"])
def test_words_and_addresses_are_no_paths(text: str) -> None:
    recipe = Recipe(cache=Cache(remote="s3://bucket/x"), quant=Quant(calibration=Calibration(text=text)))
    paths.make_absolute(recipe, Path("/w"))
    assert (recipe.cache.remote, recipe.quant.calibration.text) == ("s3://bucket/x", text)
    paths.refuse_missing(recipe)


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (Recipe(model=Model(path="/nowhere/m")), "model.path: /nowhere/m is not there → give the model's folder"),
        (Recipe(model=Model(gptq_path="/nowhere/g")), "model.gptq_path: /nowhere/g is not there"),
        (Recipe(adapter=Adapter(path="/nowhere/l")), "adapter.path: /nowhere/l is not there"),
        (Recipe(target=Target(mnnconvert="/nowhere/c")), "target.mnnconvert: /nowhere/c is not there"),
        (
            Recipe(quant=Quant(calibration=Calibration("/nowhere/t"))),
            "quant.calibration.text: /nowhere/t is not a file",
        ),
    ],
)
def test_a_missing_path_is_named(recipe: Recipe, message: str) -> None:
    with pytest.raises(UserError) as error:
        paths.refuse_missing(recipe)
    assert str(error.value).startswith(message)


def test_a_store_need_not_be_there_yet() -> None:
    paths.refuse_missing(Recipe(cache=Cache(dir="/nowhere/store")))

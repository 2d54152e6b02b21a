"""`adapter.path`: one folder or several, with names and weights."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import UserError
from pipeline.recipe import paths
from pipeline.recipe.adapter_paths import AdapterPath, absolute, parse, split_names
from pipeline.recipe.compose import compose
from pipeline.recipe.schema import Adapter, Recipe


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("a", [AdapterPath("a")]),
        ("a+/x/b", [AdapterPath("a"), AdapterPath("/x/b")]),
        ("a@0.7+b@.3", [AdapterPath("a", weight=0.7), AdapterPath("b", weight=0.3)]),
        ("pirate=a@-1+b", [AdapterPath("a", "pirate", -1.0), AdapterPath("b")]),
        ("x=/runs/lr=2e-4", [AdapterPath("/runs/lr=2e-4", "x")]),
        ("/runs/lr=2e-4", [AdapterPath("/runs/lr=2e-4")]),
    ],
)
def test_parts(text: str, expected: list[AdapterPath]) -> None:
    assert parse(text) == expected
    assert "+".join(map(str, expected)) == text.replace("@.3", "@0.3")


@pytest.mark.parametrize("name", ["a+b", "a@2", "a=b", "a+b@2"])
def test_a_folder_is_not_taken_apart(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    assert parse(name, tmp_path) == [AdapterPath(name)]
    assert parse(str(tmp_path / name)) == [AdapterPath(str(tmp_path / name))]


def test_every_folder_becomes_absolute(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    assert absolute("a@0.5+p=../b+~/c", Path("/w/x")) == "/w/x/a@0.5+p=/w/b+/home/someone/c"
    recipe = Recipe(adapter=Adapter(mode="split", path="a+b"))
    paths.make_absolute(recipe, Path("/w"))
    assert recipe.adapter.path == "/w/a+/w/b"


def test_the_missing_one_of_several_is_named(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    recipe = Recipe(adapter=Adapter(mode="split", path=f"{tmp_path}/a+{tmp_path}/b"))
    with pytest.raises(UserError, match=f"adapter.path: {tmp_path}/b is not there"):
        paths.refuse_missing(recipe)


@pytest.mark.parametrize(
    ("text", "names"),
    [("/x/pirate", ["lora"]), ("p=/x/pirate", ["p"]), ("/x/a+/y/b", ["a", "b"]), ("/x/a+b=/y/a", ["a", "b"])],
)
def test_names_of_split_adapters(text: str, names: list[str]) -> None:
    assert split_names(parse(text)) == names


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("/x/a+/y/A", "two adapters would be called"),
        ("llm=/x/a", "has a file llm of its own"),
        ("/x/config+/y/b", "has a file config of its own"),
        ("/x/ä+/y/b", "'ä' cannot name a file"),
        ("/x/a@half", "'half' is no weight"),
    ],
)
def test_mistakes(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        split_names(parse(text))
    assert caught.value.next_step


def test_the_products_name_has_all_adapters(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    (one,) = compose(["adapter=split", "adapter.path=p=a+b@0.5"], cwd=tmp_path)
    assert one.recipe.adapter.path == f"p={tmp_path}/a+{tmp_path}/b@0.5"
    assert "-split-p-b-" in one.name

"""Action keys: a key changes if and only if something that the stage declares changes."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.build import tools
from pipeline.build.code import ROOT, CodeDigests
from pipeline.build.config import flatten
from pipeline.build.key import action_key, ingredients, matches, select
from pipeline.build.nodes import build_graph
from pipeline.build.store import Blob
from tests.build.project import RECIPE, STAGES

CODE = CodeDigests(None, Path(__file__).parent)
WEIGHTS = next(stage for stage in STAGES if stage.name == "weights")
FILES = {"source": {"a.txt": Blob("1" * 64, 1)}, "graph": {"layout.json": Blob("2" * 64, 2)}}
VALUES = st.integers(0, 99) | st.text(max_size=5) | st.booleans() | st.lists(st.integers(), max_size=2)


def key(recipe: dict[str, Any], files: Any = FILES, stage: Any = WEIGHTS) -> str:
    stages = [stage if one.name == stage.name else one for one in STAGES]
    node = next(node for node in build_graph([recipe], stages, Path("x")).nodes.values() if node.name == stage.name)
    return action_key(ingredients(node, files, CODE))


def changed(recipe: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    recipe = copy.deepcopy(recipe)
    *parents, leaf = path.split(".")
    holder = recipe
    for name in parents:
        holder = holder[name]
    holder[leaf] = value
    return recipe


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.sampled_from(sorted(set(flatten(RECIPE)) - {"adapter.mode", "verify.mode"})), VALUES)
def test_a_recipe_s_key_counts_exactly_if_it_is_declared(path: str, value: Any) -> None:
    other = changed(RECIPE, path, value)
    declared = path in WEIGHTS.config
    different = json.dumps(flatten(other)[path]) != json.dumps(flatten(RECIPE)[path])
    assert (key(other) != key(RECIPE)) == (declared and different)


@settings(deadline=None)
@given(st.text("0123456789abcdef", min_size=64, max_size=64), st.sampled_from(["source", "graph"]))
def test_an_input_s_content_counts(sha256: str, name: str) -> None:
    ((file, blob),) = FILES[name].items()
    files = {**FILES, name: {file: Blob(sha256, blob.size)}}
    assert (key(RECIPE, files) != key(RECIPE)) == (sha256 != blob.sha256)


def test_an_input_s_name_counts() -> None:
    assert key(RECIPE, {**FILES, "source": {"b.txt": Blob("1" * 64, 1)}}) != key(RECIPE)


def test_the_stage_s_name_module_and_tools_count() -> None:
    base = key(RECIPE)
    assert key(RECIPE, stage=replace(WEIGHTS, tools=("numpy",))) != base
    assert key(RECIPE, stage=replace(WEIGHTS, module="toys.graph")) != base


def test_a_tool_s_version_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = replace(WEIGHTS, tools=("numpy",))
    before = key(RECIPE, stage=stage)
    monkeypatch.setattr(tools, "version", lambda tool: "0.0.1")
    assert key(RECIPE, stage=stage) != before


def test_what_the_scheduler_needs_does_not_count() -> None:
    assert key(RECIPE, stage=replace(WEIGHTS, memory=lambda recipe: 1, warm=("json",), in_process=True)) == key(RECIPE)


def test_a_file_counts_by_its_content_and_not_by_its_place(tmp_path: Path) -> None:
    stage = replace(WEIGHTS, config=("target.mnnconvert",))
    recipes = []
    for name, text in (("one", "converter"), ("two", "converter"), ("three", "another")):
        (tmp_path / name).write_text(text)
        recipe = copy.deepcopy(RECIPE)
        recipe["target"]["mnnconvert"] = str(tmp_path / name)
        recipes.append(key(recipe, stage=stage))
    assert recipes[0] == recipes[1] != recipes[2]


def test_a_key_is_the_same_in_another_process_with_other_surroundings(tmp_path: Path) -> None:
    script = "import tests.build.test_key as t; print(t.key(t.RECIPE))"
    surroundings = {
        "PYTHONHASHSEED": "123",
        "LC_ALL": "C",
        "TZ": "Pacific/Apia",
        "PYTHONPATH": str(ROOT),
        "HOME": str(tmp_path),
    }
    run = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, **surroundings},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.strip() == key(RECIPE)


@pytest.mark.parametrize(
    "name, pattern, expected",
    [
        ("a.json", "*.json", True),
        ("a/b.json", "*.json", False),
        ("a/b.json", "**/*.json", True),
        ("b.json", "**/*.json", True),
        ("a/b/c", "**", True),
        ("a/b/c", "a/**", True),
        ("b/c", "a/**", False),
        ("a", "a/**", False),
        ("x.PY", "*.py", False),
        ("model-00001.safetensors", "model-*.safetensors", True),
        ("[a].txt", "[[]a].txt", True),
    ],
)
def test_patterns(name: str, pattern: str, expected: bool) -> None:
    assert matches(name, pattern) is expected


def test_select_takes_what_any_pattern_matches_in_order() -> None:
    files = {name: Blob(name, 1) for name in ("b.txt", "a.json", "c/d.txt")}
    assert list(select(files, ("*.txt", "*.json"))) == ["a.json", "b.txt"]

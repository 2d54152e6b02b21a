"""pipeline.lock: readable, portable, and a build is held to it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.build import lockfile
from pipeline.build.engine import Engine
from pipeline.build.nodes import Product
from pipeline.errors import StageFailed, UserError
from tests.build.project import Project


def built(project: Project, **recipe: Any) -> tuple[Engine, Product]:
    engine, graph = project.engine(), project.graph(project.recipe(**recipe))
    project.run(engine, graph)
    return engine, graph.products[0]


def locked(project: Project) -> dict[str, Any]:
    engine, product = built(project)
    path = project.root / "pipeline.lock"
    lockfile.write(path, {product.name: lockfile.entry(engine, product)})
    return dict(lockfile.read(path)[product.name])


def test_an_entry_names_everything(project: Project) -> None:
    entry = locked(project)
    assert set(entry) == {"config", "sources", "tools", "stages", "files"}
    assert set(entry["stages"]["graph"]) == {"key", "output", "code"}
    assert set(entry["files"]) == {"config.json", "llm.mnn", "llm.mnn.json", "llm.mnn.weight", "onnx/llm.onnx"}
    assert entry["sources"]["source"]["files"]["model.txt"]["size"] == 12


def test_locking_twice_writes_the_same_bytes(project: Project) -> None:
    locked(project)
    before = (project.root / "pipeline.lock").read_bytes()
    locked(project)
    assert (project.root / "pipeline.lock").read_bytes() == before


def test_other_products_stay_in_the_lock(project: Project) -> None:
    locked(project)
    engine, product = built(project, name="toy-int8", quant__bits=8)
    path = project.root / "pipeline.lock"
    lockfile.write(path, {product.name: lockfile.entry(engine, product)})
    assert sorted(lockfile.read(path)) == ["toy-int4", "toy-int8"]


def test_one_change_of_a_recipe_is_a_few_lines_of_a_review(project: Project) -> None:
    locked(project)
    before = (project.root / "pipeline.lock").read_text().splitlines()
    engine, product = built(project, target__runtime={"thread_num": 4})
    lockfile.write(project.root / "pipeline.lock", {product.name: lockfile.entry(engine, product)})
    after = (project.root / "pipeline.lock").read_text().splitlines()
    assert len(before) == len(after)
    assert len([1 for one, other in zip(before, after, strict=True) if one != other]) <= 4


def test_the_same_recipe_passes(project: Project) -> None:
    entry = locked(project)
    engine, product = built(project)
    lockfile.refuse_difference(engine, product, entry)


@pytest.mark.parametrize(
    "recipe, words",
    [({"quant__block": 32}, "quant.block 64, here it is 32"), ({"verify__limit": 9}, "verify.limit 1048576, here")],
)
def test_a_changed_recipe_is_named(project: Project, recipe: dict[str, Any], words: str) -> None:
    entry = locked(project)
    product = project.graph(project.recipe(**recipe)).products[0]
    with pytest.raises(UserError, match=f"toy-int4: pipeline.lock says {words}"):
        lockfile.refuse_difference(project.engine(), product, entry)


def test_changed_code_is_named(project: Project) -> None:
    entry = locked(project)
    project.edit("graph", '"graph of "', '"the graph of "')
    with pytest.raises(UserError, match=r"pipeline.lock says code of graph [0-9a-f]{12}, here it is [0-9a-f]{12}"):
        lockfile.refuse_difference(project.engine(), project.graph().products[0], entry)


def test_a_changed_tool_is_named(project: Project) -> None:
    entry = locked(project)
    entry["tools"]["numpy"] = "1.0"
    with pytest.raises(UserError, match=r"pipeline.lock says numpy 1\.0, here it is 2"):
        lockfile.refuse_difference(project.engine(), project.graph().products[0], entry)


@pytest.mark.parametrize("change", ["edit", "add", "remove"])
def test_a_changed_source_is_named(project: Project, change: str) -> None:
    entry = locked(project)
    path = project.source / ("new.txt" if change == "add" else "model.txt")
    path.unlink() if change == "remove" else path.write_text("different")
    engine, graph = project.engine(), project.graph()
    (node,) = graph.sources.values()
    found = engine.resolve(node, project.listener)
    with pytest.raises(UserError, match=rf"pipeline.lock says source {path.name} (absent|[0-9a-f]{{12}}), here it is"):
        lockfile.refuse_other_source(graph.products[0], "source", found, entry)


def test_other_output_than_locked_is_a_failure(project: Project) -> None:
    engine, graph = project.engine(), project.graph()
    node = graph.products[0].nodes["graph"]
    engine.expected[node.id] = "0" * 64
    with pytest.raises(
        StageFailed, match=r"graph: its output is not the one that pipeline.lock names .* locked 000000000000"
    ):
        project.run(engine, graph)


def test_paths_of_this_machine_are_not_in_the_lock(project: Project) -> None:
    recipe = project.recipe(model__path="/home/me/models/toy", cache__dir="/big/disk")
    assert lockfile.portable(recipe)["model"]["path"] == "toy"
    assert "cache" not in lockfile.portable(recipe)


@pytest.mark.parametrize("text", ["<<<<<<< HEAD", "[]", "{}", '{"format": 1}', '{"format": 1, "products": 3}'])
def test_a_damaged_lock_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "pipeline.lock").write_text(text)
    with pytest.raises(UserError, match=r"pipeline.lock is not a lock file"):
        lockfile.read(tmp_path / "pipeline.lock")


def test_a_lock_of_another_format(tmp_path: Path) -> None:
    (tmp_path / "pipeline.lock").write_text(json.dumps({"format": 2, "products": {}}))
    with pytest.raises(UserError, match=r"has format 2, this version writes 1"):
        lockfile.read(tmp_path / "pipeline.lock")

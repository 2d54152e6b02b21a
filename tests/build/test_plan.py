"""Plans: what would be built, and the ingredients that say why."""

from __future__ import annotations

import json
from typing import Any

from pipeline.build.plan import Change, Step, make_plan, product_verdict
from tests.build.project import Project


def plan(project: Project, *recipes: dict[str, Any], present: bool = True) -> dict[str, Step]:
    engine, graph = project.engine(), project.graph(*recipes)
    if present:
        for source in graph.sources.values():
            engine.resolve(source, project.listener)
    steps = make_plan(engine, graph, {node.id: present for node in graph.sources.values()})
    return {step.stage: step for step in steps.values()}


def test_nothing_was_ever_built(project: Project) -> None:
    steps = plan(project)
    assert {step.verdict for step in steps.values()} == {"BUILD"}
    assert steps["checkpoint"].why() == "never built"
    assert steps["link"].why() == "never built; after graph, weights"


def test_everything_is_a_hit(project: Project) -> None:
    project.build()
    assert {(step.verdict, step.why()) for step in plan(project).values()} == {("HIT local", "")}


def test_a_plan_builds_nothing(project: Project) -> None:
    plan(project)
    assert project.calls == []
    assert not list((project.root / "store/ac").iterdir())


def test_a_changed_key_of_the_recipe_is_named(project: Project) -> None:
    project.build()
    steps = plan(project, project.recipe(quant__block=32))
    assert steps["weights"].why() == "quant.block: 64 → 32"
    assert steps["link"].why() == "after weights"
    assert [steps[name].verdict for name in ("checkpoint", "graph", "config")] == ["HIT local"] * 3


def test_the_nearest_record_is_the_one_with_the_fewest_differences(project: Project) -> None:
    project.build(project.recipe(quant__block=32))
    project.build(project.recipe(quant__bits=8, quant__block=128))
    steps = plan(project, project.recipe(quant__block=16))
    assert steps["weights"].why() == "quant.block: 32 → 16"


def test_of_equals_the_same_model_is_nearer(project: Project) -> None:
    project.build(project.recipe(quant__block=32))
    project.build(project.recipe(model__name="another", quant__block=128))
    assert plan(project, project.recipe())["weights"].why() == "quant.block: 32 → 64"


def test_changed_code_names_the_file(project: Project) -> None:
    project.build()
    project.edit("graph", '"graph of "', '"the graph of "')
    steps = plan(project)
    assert steps["graph"].why() == "code: toys/graph.py changed"
    assert steps["weights"].why() == "after graph"


def test_a_changed_source_names_the_file_and_both_digests(project: Project) -> None:
    project.build()
    before = plan(project)["checkpoint"].key
    (project.source / "model.txt").write_text("other weights")
    step = plan(project)["checkpoint"]
    assert step.why().startswith("input: source/model.txt ")
    assert step.key != before


def test_a_changed_tool_names_both_versions(project: Project, monkeypatch: Any) -> None:
    from pipeline.build import tools

    project.build()
    now = tools.version("numpy")
    monkeypatch.setattr(tools, "version", lambda tool: "99.0")
    assert plan(project)["link"].why() == f"numpy: {now} → 99.0"


def test_a_source_that_is_not_here_leaves_the_rest_open(project: Project) -> None:
    steps = plan(project, present=False)
    assert steps["checkpoint"].why() == "never built; after source"


def test_a_remote_hit_is_told_apart(project: Project) -> None:
    project.build()
    records = {record.key: record for record in project.engine().store.records()}

    class Elsewhere:
        def find(self, stage: str, key: str) -> Any:
            return records.get(key)

    engine, graph = project.engine(store=project.root / "fresh", remote=Elsewhere()), project.graph()
    for source in graph.sources.values():
        engine.resolve(source, project.listener)
    steps = make_plan(engine, graph, {node.id: True for node in graph.sources.values()})
    assert {step.verdict for step in steps.values()} == {"HIT remote"}
    assert project.calls and not list((project.root / "fresh/blobs").iterdir())


def test_the_product_s_own_verdict(project: Project) -> None:
    def verdict() -> str:
        engine, graph = project.engine(), project.graph()
        for source in graph.sources.values():
            engine.resolve(source, project.listener)
        steps = make_plan(engine, graph, {node.id: True for node in graph.sources.values()})
        return product_verdict(engine, graph.products[0], steps)

    assert verdict() == "PUBLISH"
    folder = project.export().product.folder
    assert verdict() == "up to date"
    (folder / "llm.mnn").unlink()
    assert verdict() == "PUBLISH"


def test_long_reasons_are_cut_and_counted() -> None:
    changes = tuple(Change("code", f"m{number}.py", "a", "b") for number in range(5))
    assert Step("x", "", "BUILD", changes=changes).why() == "code: m0.py changed; code: m1.py changed; and 3 more"


def test_json_is_whole(project: Project) -> None:
    project.build()
    step = plan(project, project.recipe(quant__block=32))["weights"]
    data = json.loads(json.dumps(step.to_json()))
    assert data["changes"] == [{"kind": "config", "name": "quant.block", "before": "64", "after": "32"}]
    assert data["verdict"] == "BUILD" and len(data["key"]) == 64

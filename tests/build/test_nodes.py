"""The graph of a request: shared nodes, sources, and declarations that cannot be right."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.build.nodes import build_graph, consumers
from pipeline.build.stage import Input, Stage
from tests.build.project import RECIPE, STAGES


def recipe(**values: Any) -> dict[str, Any]:
    return {**RECIPE, **values}


def names(graph: Any) -> list[str]:
    return [node.name for node in graph.nodes.values()]


def test_producers_come_before_consumers() -> None:
    graph = build_graph([recipe()], STAGES, Path("artifacts"))
    seen = set(graph.sources)
    for node in graph.nodes.values():
        assert all(edge.node.id in seen for edge in node.inputs.values())
        seen.add(node.id)


def test_two_recipes_share_the_nodes_that_are_equal() -> None:
    other = recipe(name="other", quant={**RECIPE["quant"], "bits": 8})
    graph = build_graph([recipe(), other], STAGES, Path("artifacts"))
    assert sorted(names(graph)) == sorted([*(stage.name for stage in STAGES), "weights", "link", "quality"])
    one, two = graph.products
    assert one.nodes["graph"] is two.nodes["graph"]
    assert one.nodes["weights"] is not two.nodes["weights"]
    assert len(graph.sources) == 1


def test_another_model_shares_nothing_but_what_reads_no_model() -> None:
    other = recipe(name="other", model={"name": "other", "path": "/x"})
    one, two = build_graph([recipe(), other], STAGES, Path("artifacts")).products
    assert [name for name in one.nodes if one.nodes[name] is two.nodes[name]] == ["config"]


def test_a_stage_that_does_not_apply_is_not_there() -> None:
    graph = build_graph([recipe(verify={"mode": "off", "limit": 1})], STAGES, Path("artifacts"))
    assert "quality" not in names(graph)


def test_an_adapter_is_a_source_only_if_there_is_one() -> None:
    reader = replace(STAGES[0], inputs=(Input("source"), Input("adapter")))
    without = build_graph([recipe()], [reader], Path("x")).products[0]
    with_one = build_graph([recipe(adapter={"mode": "merge", "path": "/lora"})], [reader], Path("x")).products[0]
    assert list(without.nodes["checkpoint"].inputs) == ["source"]
    assert list(with_one.nodes["checkpoint"].inputs) == ["source", "adapter"]
    assert without.nodes["checkpoint"].id != with_one.nodes["checkpoint"].id


def test_an_input_that_no_earlier_stage_makes_is_a_bug() -> None:
    odd = Stage("odd", "toys.odd", (Input("later"),))
    with pytest.raises(ValueError, match="stage odd reads later, which no earlier stage makes"):
        build_graph([recipe()], [odd], Path("x"))


def test_memory_is_estimated_from_the_recipe() -> None:
    heavy = replace(STAGES[0], memory=lambda recipe: recipe["quant"]["bits"] << 30)
    assert build_graph([recipe()], [heavy], Path("x")).products[0].nodes["checkpoint"].memory == 4 << 30


def test_consumers_in_the_graph_s_order() -> None:
    graph = build_graph([recipe()], STAGES, Path("x"))
    nodes = graph.products[0].nodes
    readers = consumers(graph)
    assert [node.name for node in readers[nodes["graph"].id]] == ["weights", "link"]
    assert nodes["quality"].id not in readers


def test_a_split_adapter_changes_no_stage_of_the_base() -> None:
    base, *_ = STAGES
    base = replace(base, inputs=(Input("source"), Input("adapter")), config=(*base.config, "adapter"))
    linker = replace(STAGES[1], inputs=(Input("split"),), config=("adapter",))
    none = {"mode": "none", "path": "", "weight": 1.0}
    recipes = [
        recipe(adapter=none),
        recipe(name="one", adapter={"mode": "split", "path": "/a", "weight": 1.0}),
        recipe(name="two", adapter={"mode": "split", "path": "/a+/b", "weight": 0.5}),
        recipe(name="merged", adapter={"mode": "merge", "path": "/a", "weight": 1.0}),
    ]
    plain, one, two, merged = build_graph(recipes, [base, linker], Path("x")).products
    assert one.nodes[base.name] is two.nodes[base.name] is plain.nodes[base.name]
    assert merged.nodes[base.name] is not plain.nodes[base.name]
    assert one.nodes[linker.name] is not two.nodes[linker.name]
    assert two.nodes[linker.name].config == {"adapter": {"mode": "split", "path": "/a+/b", "weight": 0.5}}
    assert set(one.sources) == {"source", "split"}
    assert set(merged.sources) == {"source", "adapter"}

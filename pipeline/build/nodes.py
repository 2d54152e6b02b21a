"""Recipes → the graph of what must be built. Nodes that two recipes share are one node."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.build.canonical import digest
from pipeline.build.config import subset
from pipeline.build.stage import Stage

SOURCES = ("source", "adapter", "split")


@dataclass(frozen=True)
class SourceNode:
    """Files that come from outside: the model's ("source"), those of adapters to merge ("adapter") or to keep apart
    ("split"). spec: that part of the recipe."""

    name: str
    spec: Mapping[str, Any]
    id: str
    label: str


@dataclass(frozen=True)
class Edge:
    """One declared input: files of `node` that match the glob patterns."""

    node: SourceNode | Node
    files: tuple[str, ...]


@dataclass(frozen=True)
class Node:
    """One stage for one recipe. id: digest of the stage, its part of the recipe and its inputs' ids."""

    stage: Stage
    config: Mapping[str, Any]
    inputs: Mapping[str, Edge]
    id: str
    label: str
    memory: int

    @property
    def name(self) -> str:
        """The stage's name."""
        return self.stage.name


@dataclass(frozen=True)
class Product:
    """What a recipe makes: the folder's name and the nodes that its files come from."""

    name: str
    recipe: Mapping[str, Any]
    folder: Path
    nodes: Mapping[str, Node]
    sources: Mapping[str, SourceNode]


@dataclass
class Graph:
    """Every node of a request, producers before consumers."""

    products: list[Product] = field(default_factory=list)
    nodes: dict[str, Node] = field(default_factory=dict)
    sources: dict[str, SourceNode] = field(default_factory=dict)


def build_graph(recipes: Sequence[Mapping[str, Any]], stages: Sequence[Stage], folder: Path) -> Graph:
    """The graph of all `recipes`; products lie under `folder`. of `stages`, producers come first."""
    graph = Graph()
    _refuse_unknown_inputs(stages)
    for recipe in recipes:
        name = str(recipe["name"])
        sources = {node.name: graph.sources.setdefault(node.id, node) for node in _sources(recipe)}
        nodes: dict[str, Node] = {}
        for stage in stages:
            if stage.applies(recipe):
                node = _node(stage, recipe, nodes, sources)
                nodes[stage.name] = graph.nodes.setdefault(node.id, node)
        graph.products.append(Product(name, recipe, folder / name, nodes, sources))
    return graph


def consumers(graph: Graph) -> dict[str, list[Node]]:
    """Node id → nodes that read it, in the graph's order."""
    readers: dict[str, list[Node]] = {}
    for node in graph.nodes.values():
        for edge in node.inputs.values():
            readers.setdefault(edge.node.id, []).append(node)
    return readers


def _refuse_unknown_inputs(stages: Sequence[Stage]) -> None:
    """An input of a stage that comes later, or never, would be left out silently. Raises ValueError: it is a bug."""
    before = set(SOURCES)
    for stage in stages:
        unknown = {one.stage for one in stage.inputs} - before
        if unknown:
            raise ValueError(f"stage {stage.name} reads {', '.join(sorted(unknown))}, which no earlier stage makes")
        before.add(stage.name)


def _sources(recipe: Mapping[str, Any]) -> list[SourceNode]:
    label = str(recipe["model"].get("name", ""))
    nodes = [_source("source", recipe["model"], label)]
    adapter = recipe.get("adapter") or {}
    path = adapter.get("path", "")
    if adapter.get("mode") == "split":
        nodes.append(_source("split", {"mode": "split", "path": path}, label))
    elif adapter.get("mode", "none") != "none":
        nodes.append(_source("adapter", {"path": path}, label))
    return nodes


def seen_by(stage: Stage, recipe: Mapping[str, Any]) -> Mapping[str, Any]:
    """The recipe as `stage` sees it. Split adapters change nothing of the base product: a stage that does not read
    them sees a recipe without, and so is shared by products with other adapters and with none."""
    adapter = recipe.get("adapter") or {}
    if adapter.get("mode") != "split" or any(one.stage == "split" for one in stage.inputs):
        return recipe
    return {**recipe, "adapter": {**adapter, "mode": "none", "path": "", "weight": 1.0}}


def _source(name: str, spec: Mapping[str, Any], label: str) -> SourceNode:
    return SourceNode(name, spec, digest("source-node", [name, dict(spec)]), label)


def _node(
    stage: Stage, recipe: Mapping[str, Any], nodes: Mapping[str, Node], sources: Mapping[str, SourceNode]
) -> Node:
    config = subset(seen_by(stage, recipe), stage.config)
    known: dict[str, SourceNode | Node] = {**sources, **nodes}
    edges = {one.stage: Edge(known[one.stage], tuple(one.files)) for one in stage.inputs if one.stage in known}
    inputs = [[name, edge.node.id, sorted(edge.files)] for name, edge in sorted(edges.items())]
    node_id = digest("node", [stage.name, stage.module, config, inputs])
    label = str(recipe["model"].get("name", ""))
    return Node(stage, config, edges, node_id, label, stage.memory(recipe))

"""Nodes whose results nobody reads."""

from __future__ import annotations

from pipeline.graph.ir import Graph, Value


def drop_dead(graph: Graph) -> None:
    """Removes them, last first."""
    needed: set[Value] = set(graph.outputs.values())
    kept = []
    for node in reversed(graph.nodes):
        if needed.intersection(node.outputs):
            needed.update(node.inputs)
            kept.append(node)
    graph.nodes = kept[::-1]

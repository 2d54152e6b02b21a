"""Nodes whose results nobody reads."""

from __future__ import annotations

from pipeline.graph.ir import Graph, Value


def drop_dead(graph: Graph) -> None:
    """Removes them, last first."""
    needed: set[Value] = {*graph.outputs.values(), *([] if graph.reach is None else [graph.reach])}
    kept = []
    for node in reversed(graph.nodes):
        if needed.intersection(node.outputs):
            needed.update(node.inputs)
            kept.append(node)
    graph.nodes = kept[::-1]

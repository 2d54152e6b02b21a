"""Reshapes before a linear: the engine's own flattens to rows anyway."""

from __future__ import annotations

from pipeline.graph.ir import Graph


def drop_linear_reshapes(graph: Graph) -> None:
    """Lets a linear read what a reshape before it reads, when the rows are the same."""
    producers = graph.producers()
    for node in graph.nodes:
        if node.linear is None:
            continue
        before = producers.get(node.inputs[0])
        if before is not None and before.op == "Reshape":
            node.inputs[0] = before.inputs[0]

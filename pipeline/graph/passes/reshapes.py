"""Reshapes of reshapes, and reshapes that change nothing."""

from __future__ import annotations

from pipeline.graph.ir import Graph


def join_reshapes(graph: Graph) -> None:
    """Lets a reshape read what the reshape before it read, and drops it when the shape is already there."""
    producers = graph.producers()
    for node in list(graph.nodes):
        if node.op != "Reshape":
            continue
        before = producers.get(node.inputs[0])
        while before is not None and before.op == "Reshape":
            node.inputs[0] = before.inputs[0]
            before = producers.get(node.inputs[0])
        if node.inputs[0].shape == node.output.shape and node.output not in graph.outputs.values():
            graph.replace_value(node.output, node.inputs[0])
            graph.nodes.remove(node)

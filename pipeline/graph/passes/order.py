"""One order of nodes for one graph, whatever order they were traced in.

Modelling code may iterate over a set (Gemma 3 over its layers' types), whose order changes with Python's hash seed.
"""

from __future__ import annotations

from pipeline.graph.ir import Graph, Node


def order_nodes(graph: Graph) -> None:
    """Producers before consumers, each node as late as its first reader needs it, walking back from the outputs."""
    producers = graph.producers()
    placed: dict[Node, None] = {}
    waiting = [producers[value] for value in reversed(graph.outputs.values()) if value in producers]
    while waiting:
        missing = [
            producers[value] for value in waiting[-1].inputs if value in producers and producers[value] not in placed
        ]
        if missing:
            waiting.append(missing[0])
        else:
            placed[waiting.pop()] = None
    graph.nodes = list(placed)

"""Norm weights that differ between heads ([heads, head_dim]).

The converter fuses a norm with any constant product behind it, and then reads a weight of head_dim numbers. Taken
between two reshapes, the product stays out of the fusion.
"""

from __future__ import annotations

from pipeline.graph.ir import Builder, Graph, Node, constant
from pipeline.graph.moves import reshape


def part_head_gammas(graph: Graph) -> None:
    """Multiplies by such a weight on [..., heads · head_dim]."""
    for node in [node for node in graph.nodes if node.op == "Mul" and node.output.rank == 4]:
        side = next(
            (side for side in (0, 1) if node.inputs[side].data is not None and node.inputs[side].rank > 1), None
        )
        if side is not None and node.inputs[side].shape == node.output.shape[2:]:
            _part(graph, node, side)


def _part(graph: Graph, node: Node, side: int) -> None:
    data, value = node.inputs[side].data, node.inputs[1 - side]
    assert data is not None
    built = Builder(Graph())
    flat = (*value.shape[:2], data.size)
    product = built.emit("Mul", [reshape(built, value, flat), constant(data.reshape(-1))], flat)
    result = reshape(built, product, node.output.shape)
    place = graph.nodes.index(node)
    graph.nodes[place : place + 1] = built.graph.nodes
    graph.replace_value(node.output, result)

"""Interleaved RoPE: the engine turns halves, so q's and k's elements are put in another order within each head.

Where q comes straight from a linear, its output rows are stored in that order (`deinterleave` in layout.json), and the
graph has nothing left to do; elsewhere the reordering stays in the graph.
"""

from __future__ import annotations

from dataclasses import replace

from pipeline.graph.ir import Builder, Graph, Linear, Node, Part, Value
from pipeline.graph.moves import cut, reshape, transpose


def permute_rows(graph: Graph) -> None:
    """Removes every Deinterleave node."""
    for node in [node for node in graph.nodes if node.op == "Deinterleave"]:
        source = node.inputs[0]
        linear = _linear_before(graph, source)
        rotary = int(node.attributes["rotary"])  # type: ignore[arg-type]
        place = graph.nodes.index(node)
        if linear is not None and linear.linear is not None:
            size = source.shape[3]
            linear.linear = _permuted(linear.linear, size, rotary)  # type: ignore[arg-type]
            graph.nodes.remove(node)
            graph.replace_value(node.output, source)
        else:
            built = Builder(Graph())
            result = _in_graph(built, source, rotary)
            graph.nodes[place : place + 1] = built.graph.nodes
            graph.replace_value(node.output, result)


def _linear_before(graph: Graph, value: Value) -> Node | None:
    """The linear whose output is `value`, reshaped, if every reader may have its rows in another order."""
    producers, consumers = graph.producers(), graph.consumers()
    while graph.read_once(value, consumers):
        node = producers.get(value)
        if node is None:
            return None
        if node.linear is not None:
            shared = (
                sum(other.linear is not None and other.linear.name == node.linear.name for other in graph.nodes) > 1
            )
            return None if shared else node
        if node.op != "Reshape":
            return None
        value = node.inputs[0]
    return None


def _permuted(linear: Linear, size: int, rotary: int) -> Linear:
    """`linear` with the rows of every head of `size` in de-interleaved order; a part holds whole heads."""

    def reorder(parts: tuple[Part, ...]) -> tuple[Part, ...]:
        return tuple(replace(part, deinterleave=(_count(linear, part) // size, size, rotary)) for part in parts)

    return replace(linear, parts=reorder(linear.parts), bias=None if linear.bias is None else reorder(linear.bias))


def _count(linear: Linear, part: Part) -> int:
    return linear.out_features if part.rows is None else part.rows[1] - part.rows[0]


def _in_graph(builder: Builder, value: Value, rotary: int) -> Value:
    one, length, heads, size = value.shape
    turned = reshape(builder, cut(builder, value, 3, 0, rotary), (one, length, heads, rotary // 2, 2))
    turned = reshape(builder, transpose(builder, turned, (0, 1, 2, 4, 3)), (one, length, heads, rotary))
    if rotary == size:
        return turned
    assert isinstance(size, int)
    rest = cut(builder, value, 3, rotary, size)
    return builder.emit("Concat", [turned, rest], value.shape, axis=3)

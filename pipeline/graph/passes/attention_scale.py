"""A factor on q that the engine's attention does not apply: into the weights that q comes from."""

from __future__ import annotations

from pipeline.graph.ir import Graph, Node, Value, constant

_LINEAR_OPS = {"Reshape", "Transpose", "Deinterleave", "FusedRoPE"}


def fold_attention_scale(graph: Graph) -> None:
    """Moves Mul(q, number) before an attention up to the linear (or norm weight) that makes q; else it stays."""
    for attention in [node for node in graph.nodes if node.op == "FusedAttention"]:
        producers = graph.producers()
        scale = producers.get(attention.inputs[0])
        if scale is None or scale.op != "Mul" or scale.inputs[1].data is None or scale.inputs[1].rank:
            continue
        if _fold(graph, producers, scale.inputs[0], float(scale.inputs[1].data)):
            graph.replace_value(scale.output, scale.inputs[0])
            graph.nodes.remove(scale)


def _fold(graph: Graph, producers: dict[Value, Node], value: Value, factor: float) -> bool:
    consumers = graph.consumers()
    while graph.read_once(value, consumers):
        node = producers.get(value)
        if node is None:
            return False
        if node.linear is not None:
            if _shared(graph, node):
                return False
            node.linear = node.linear.scaled(factor)
            return True
        if node.op == "Mul" and (side := _constant_side(node)) is not None:
            node.inputs[side] = constant(node.inputs[side].data * factor)  # type: ignore[operator]
            return True
        if node.op not in _LINEAR_OPS:
            return False
        value = node.inputs[node.outputs.index(value)] if node.op == "FusedRoPE" else node.inputs[0]
    return False


def _constant_side(node: Node) -> int | None:
    return next((side for side in (0, 1) if node.inputs[side].data is not None), None)


def _shared(graph: Graph, node: Node) -> bool:
    assert node.linear is not None
    return sum(other.linear is not None and other.linear.name == node.linear.name for other in graph.nodes) > 1

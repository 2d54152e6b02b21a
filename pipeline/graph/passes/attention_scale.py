"""A factor on q that the engine's attention does not apply (it has 1/√head_dim and no other).

Best into the RoPE tables: √factor on cos and sin scales q and k alike, in float32, and costs nothing. Where not every
element is turned, into the weights that q comes from: a norm's, or a linear's rows, which fp16 then rounds anew.
"""

from __future__ import annotations

import math
from collections import defaultdict

from pipeline.graph.ir import Graph, Node, Value, constant

_LINEAR_OPS = {"Reshape", "Transpose", "Deinterleave", "FusedRoPE"}


def fold_attention_scale(graph: Graph) -> None:
    """Removes Mul(q, number) before attentions; one whose q comes from neither stays."""
    _into_tables(graph)
    for attention in [node for node in graph.nodes if node.op == "FusedAttention"]:
        producers = graph.producers()
        factor = _factor(producers.get(attention.inputs[0]))
        if factor is not None and _into_weights(graph, producers, producers[attention.inputs[0]].inputs[0], factor):
            _remove(graph, producers[attention.inputs[0]])


def _factor(node: Node | None) -> float | None:
    """The number in Mul(x, number)."""
    if node is None or node.op != "Mul" or node.inputs[1].data is None or node.inputs[1].rank:
        return None
    return float(node.inputs[1].data)


def _remove(graph: Graph, scale: Node) -> None:
    graph.replace_value(scale.output, scale.inputs[0])
    graph.nodes.remove(scale)


def _into_tables(graph: Graph) -> None:
    """Folds where all attentions behind one pair of tables have the same factor and all of their heads are turned."""
    producers = graph.producers()
    behind: dict[Value, list[Node]] = defaultdict(list)
    for attention in (node for node in graph.nodes if node.op == "FusedAttention"):
        scale = producers.get(attention.inputs[0])
        rope = producers.get(scale.inputs[0]) if _factor(scale) and scale is not None else scale
        if rope is not None and rope.op == "FusedRoPE":
            whole = rope.attributes["rope_cut_head_dim"] == rope.attributes["head_dim"]
            alone = whole and producers.get(attention.inputs[1]) is rope
            behind[rope.inputs[2]].append(scale if alone and scale is not rope and scale is not None else rope)
    ropes = [node for node in graph.nodes if node.op == "FusedRoPE"]
    for cosine, scales in behind.items():
        factors = {_factor(node) for node in scales}
        factor = factors.pop()
        if factors or not factor or factor < 0 or sum(rope.inputs[2] is cosine for rope in ropes) != len(scales):
            continue
        for gather in _outer_tables(producers, cosine):
            gather.inputs[0] = constant(gather.inputs[0].data * math.sqrt(factor))  # type: ignore[operator]
        for scale in scales:
            _remove(graph, scale)


def _outer_tables(producers: dict[Value, Node], cosine: Value) -> list[Node]:
    """The lookups of cos and sin of the position's high part, factors of both sums in `rotary.py`."""
    node = producers[cosine]
    while node.op in ("Concat", "Reshape"):
        node = producers[node.inputs[0]]
    gathers = [producers[producers[product].inputs[0]] for product in node.inputs]
    assert all(gather.op == "Gather" for gather in gathers)
    return gathers


def _into_weights(graph: Graph, producers: dict[Value, Node], value: Value, factor: float) -> bool:
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

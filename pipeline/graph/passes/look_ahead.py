"""Lets tokens see some of those that come after them: a picture's tokens all of the same picture's (`Graph.reach`).

The engine's masks are causal. A token whose reach is n also sees the n tokens after it, if they are fed in the same run
(a later run's are not there yet). How far a key lies ahead is read off the causal mask itself: in a run of L tokens the
key of token l is hidden from l of them, and token l has L − 1 − l hidden keys; keys of earlier runs are hidden from
none. That holds for any number of cached keys, and needs no shape of either axis.
"""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.errors import UserError
from pipeline.graph.ir import Builder, Graph, Size, Value, constant
from pipeline.graph.moves import reshape

HIDDEN = -1.0  # masks are 0 where a key is seen, and the lowest float (in half precision −inf) where it is not


def look_ahead(graph: Graph) -> None:
    """Widens the masks of all attentions. UserError for a graph whose engine feeds no mask that can be read."""
    if graph.reach is None:
        return
    if not graph.window:
        raise UserError(
            "the model's picture tokens see each other in both directions, and none of its layers has a sliding window",
            "the engine feeds a mask that a graph can read for sliding windows only; build the text part alone with "
            "visual.mode=off",
        )
    layers = [node for node in graph.nodes if node.op == "FusedAttention"]
    masks = list(dict.fromkeys(node.inputs[3] for node in layers))
    first = min(graph.nodes.index(node) for node in layers)
    after, graph.nodes = graph.nodes[first:], graph.nodes[:first]
    builder = Builder(graph)
    seen = _seen(builder, _full_mask(builder), graph.reach)
    wider = {mask: builder.emit("Where", [seen, constant(0.0), mask], mask.shape) for mask in masks}
    graph.nodes += after
    for node in layers:
        node.inputs[3] = wider[node.inputs[3]]
    graph.reach = None


def _full_mask(builder: Builder) -> Value:
    """The mask without a window, [1, 1, L, keys]: the first of the engine's two, whether a layer reads it or not."""
    mask = builder.graph.inputs["attention_mask"]
    for node in builder.graph.nodes:
        if node.op == "Gather" and node.inputs[0] is mask and node.inputs[1].data == 0:
            return node.output
    return builder.emit("Gather", [mask, constant(0, "int32")], mask.shape[1:], axis=0)


def _seen(builder: Builder, mask: Value, reach: Value) -> Value:
    """bool [1, 1, L, keys]: keys that come later and are seen all the same. Counted in integers: half floats cannot."""
    length, keys = mask.shape[2:]
    hidden = builder.emit("Greater", [constant(HIDDEN), mask], mask.shape, "bool")
    ones = builder.emit("Cast", [hidden], mask.shape, "int32", to="int32")
    place = _reduce(builder, "ReduceSum", ones, 2, (1, 1, 1, keys))
    behind = _reduce(builder, "ReduceSum", ones, 3, (1, 1, length, 1))
    last = _reduce(builder, "ReduceMax", place, 3, (1, 1, 1, 1))
    whole = builder.emit("Round", [reshape(builder, reach, (1, 1, length, 1))], (1, 1, length, 1))
    steps = builder.emit("Cast", [whole], (1, 1, length, 1), "int32", to="int32")
    own = builder.emit("Sub", [last, behind], (1, 1, length, 1), "int32")
    furthest = builder.emit("Add", [own, steps], (1, 1, length, 1), "int32")
    beyond = builder.emit("Add", [furthest, constant(1, "int32")], (1, 1, length, 1), "int32")
    within = builder.emit("Greater", [beyond, place], mask.shape, "bool")
    return builder.emit("And", [hidden, within], mask.shape, "bool")


def _reduce(builder: Builder, op: str, value: Value, axis: int, shape: Sequence[Size]) -> Value:
    return builder.emit(op, [value], shape, value.dtype, axes=(axis,), keepdims=1)

"""Transposes that undo each other, also with a normalisation over the last axis between them.

Models put heads before the sequence; the engine's attention and RoPE take them after it. q and k norms that work on the
last axis do not care, so that the pair around them goes too, and the RoPE op can take the norm over.
"""

from __future__ import annotations

from pipeline.graph.ir import Graph, Node, Value

_POINTWISE = {"Add", "Sub", "Mul", "Div", "Pow", "Sqrt", "Reciprocal", "Neg", "Sigmoid"}


def cancel_transposes(graph: Graph) -> None:
    """Removes every transpose whose readers, through operations along the last axis only, all transpose back."""
    changed = True
    while changed:
        changed = any(_cancel(graph, node) for node in list(graph.nodes) if node.op == "Transpose")


def _cancel(graph: Graph, first: Node) -> bool:
    order: tuple[int, ...] = first.attributes["perm"]  # type: ignore[assignment]
    if first not in graph.nodes or first.output in graph.outputs.values():
        return False
    region = _region(graph, first, order)
    if region is None:
        return False
    between, seconds = region
    for node in between:
        node.output.shape = _permuted(node.output.shape, _inverse(order))
    for second in seconds:
        graph.replace_value(second.output, second.inputs[0])
        graph.nodes.remove(second)
    graph.replace_value(first.output, first.inputs[0])
    graph.nodes.remove(first)
    return True


def _region(graph: Graph, first: Node, order: tuple[int, ...]) -> tuple[list[Node], list[Node]] | None:
    """The pointwise nodes behind `first` and the transposes that end them; None if anything else reads on the way."""
    consumers = graph.consumers()
    between: list[Node] = []
    seconds: list[Node] = []
    inside: set[Value] = {first.output}
    waiting = [first.output]
    while waiting:
        value = waiting.pop()
        if value in graph.outputs.values() or not consumers[value]:
            return None
        for node in consumers[value]:
            if node.op == "Transpose" and node.attributes["perm"] == _inverse(order):
                seconds.append(node)
            elif _along_last_axis(node, order):
                if node not in between:
                    between.append(node)
                    inside.add(node.output)
                    waiting.append(node.output)
            else:
                return None
    closed = all(value in inside or _broadcasts(value) for node in between for value in node.inputs)
    return (between, seconds) if closed else None


def _along_last_axis(node: Node, order: tuple[int, ...]) -> bool:
    if order[-1] != len(order) - 1:
        return False
    if node.op == "ReduceMean":
        return node.attributes["axes"] == (len(order) - 1,) and bool(node.attributes["keepdims"])
    return node.op in _POINTWISE


def _broadcasts(value: Value) -> bool:
    """A constant that is the same along all axes but the last."""
    return value.data is not None and value.rank <= 1


def _inverse(order: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(order.index(axis) for axis in range(len(order)))


def _permuted(shape: tuple[object, ...], order: tuple[int, ...]) -> tuple:  # type: ignore[type-arg]
    return tuple(shape[axis] for axis in order)

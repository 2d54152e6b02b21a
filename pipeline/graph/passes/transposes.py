"""Transposes that undo each other, also with a normalisation over the last axis between them.

Models put heads before the sequence; the engine's attention and RoPE take them after it. q and k norms that work on the
last axis do not care, so that the pair around them goes too, and the RoPE op can take the norm over.
"""

from __future__ import annotations

from pipeline.graph.ir import Graph, Node, Value

_POINTWISE = {"Add", "Sub", "Mul", "Div", "Pow", "Sqrt", "Reciprocal", "Neg", "Sigmoid"}


def cancel_transposes(graph: Graph) -> None:
    """Removes every transpose whose readers, through operations along the last axis only, all transpose back."""
    consumers = graph.consumers()
    gone: set[Node] = set()
    for node in graph.nodes:
        if node.op == "Transpose" and node not in gone:
            gone |= _cancel(graph, node, consumers)
    graph.nodes = [node for node in graph.nodes if node not in gone]


def _cancel(graph: Graph, first: Node, consumers: dict[Value, list[Node]]) -> set[Node]:
    """The nodes that `first` cancels out with, itself among them; none if it does not. Keeps `consumers` true."""
    order: tuple[int, ...] = first.attributes["perm"]  # type: ignore[assignment]
    region = _region(graph, first, order, consumers)
    if region is None:
        return set()
    between, seconds = region
    for node in between:
        node.output.shape = _permuted(node.output.shape, _inverse(order))
    for ended in [*seconds, first]:
        _redirect(ended.output, ended.inputs[0], consumers)
    graph.outputs = {
        name: next((second.inputs[0] for second in seconds if second.output is value), value)
        for name, value in graph.outputs.items()
    }
    for ended in [*seconds, first]:
        consumers[ended.inputs[0]] = [node for node in consumers[ended.inputs[0]] if node is not ended]
    return {first, *seconds}


def _redirect(old: Value, new: Value, consumers: dict[Value, list[Node]]) -> None:
    for node in consumers.pop(old, []):
        node.inputs = [new if value is old else value for value in node.inputs]
        consumers[new].append(node)


def _region(
    graph: Graph, first: Node, order: tuple[int, ...], consumers: dict[Value, list[Node]]
) -> tuple[list[Node], list[Node]] | None:
    """The pointwise nodes behind `first` and the transposes that end them; None if anything else reads on the way."""
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
            elif not _along_last_axis(node, order):
                return None
            elif node not in between:
                between.append(node)
                inside.add(node.output)
                waiting.append(node.output)
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

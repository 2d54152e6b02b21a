"""Two traces at different sequence lengths → one graph that knows which of its sizes grow with the sequence.

Whatever is the same in both traces is fixed; an integer that differs must be factor · length + offset. What differs in
any other way (a constant, the number of nodes) cannot be expressed, and is an error: no traced length survives.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from pipeline.errors import UserError
from pipeline.graph.ir import Attribute, Experts, Graph, Grows, Node, Size, Value

# Primes that no model has as a size, far enough apart that a wrong relation does not fit by chance.
LENGTHS = (23, 37)


def merge(short: Graph, long: Graph) -> Graph:
    """`short`, with sizes that grow with the sequence as `Grows`. Changes and returns `short`."""
    if [node.op for node in short.nodes] != [node.op for node in long.nodes]:
        raise UserError("the model's graph has other operations for another sequence length, so no one graph fits all")
    merger = _Merger()
    for first, second in zip(short.nodes, long.nodes, strict=True):
        merger.node(first, second)
    for name, value in short.inputs.items():
        merger.value(value, long.inputs[name], name)
    return short


def grown(first: int, second: int) -> Size | None:
    """The size that is `first` and `second` at the two lengths; None if it does not grow in steps of the length."""
    if first == second:
        return first
    factor, rest = divmod(second - first, LENGTHS[1] - LENGTHS[0])
    return None if rest else Grows(factor, first - factor * LENGTHS[0])


@dataclass
class _Merger:
    done: set[int] = field(default_factory=set)

    def node(self, first: Node, second: Node) -> None:
        if len(first.inputs) != len(second.inputs) or first.linear != second.linear:
            raise UserError(f"the model's {first.op} differs from itself at another sequence length")
        for pair in zip([*first.inputs, *first.outputs], [*second.inputs, *second.outputs], strict=True):
            self.value(*pair, first.op)
        first.attributes = {
            key: self.attribute(value, second.attributes[key], first.op) for key, value in first.attributes.items()
        }

    def value(self, first: Value, second: Value, where: str) -> None:
        if id(first) in self.done:
            return
        self.done.add(id(first))
        if first.data is not None:
            same = second.data is not None and np.array_equal(first.data, second.data, equal_nan=True)
            if not same:
                raise UserError(
                    f"the model computes a constant {list(first.data.shape)} for {where} from the sequence length, "
                    "which the graph cannot hold for every length"
                )
            return
        first.shape = tuple(self.size(a, b, where) for a, b in zip(first.shape, second.shape, strict=True))

    def attribute(self, first: Attribute, second: Attribute, where: str) -> Attribute:
        if isinstance(first, tuple) and isinstance(second, tuple):
            return tuple(self.size(a, b, where) for a, b in zip(first, second, strict=True))
        if isinstance(first, int) and isinstance(second, int):
            return self.size(first, second, where)
        if first != second:
            raise UserError(
                f"the model's {where} depends on the sequence length in a way that the graph cannot express"
            )
        return first

    def size(self, first: Size, second: Size, where: str) -> Size:
        assert isinstance(first, int) and isinstance(second, int)
        size = grown(first, second)
        if size is None:
            raise UserError(f"a size of the model's {where} does not grow evenly with the sequence ({first}, {second})")
        return size


def merge_experts(short: dict[str, Experts], long: dict[str, Experts]) -> None:
    """The same for the graphs of mixture-of-experts placeholders, in place."""
    for name, experts in short.items():
        merge(experts.graph, long[name].graph)

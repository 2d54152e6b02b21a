"""The graph between tracing and ONNX: values, nodes with ONNX op names, and weight placeholders.

Everything that in ONNX would be a constant *input* that holds sizes (Reshape's shape, Slice's bounds) is an attribute
here, so that sizes that grow with the sequence can be found by comparing two traces (`lengths.py`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

CUSTOM_DOMAIN = "LlmExporter"


@dataclass(frozen=True)
class Grows:
    """A size that is `factor` · (sequence length) + `offset`."""

    factor: int
    offset: int = 0


Size = int | Grows
Attribute = Size | float | str | tuple[Size, ...]


@dataclass(eq=False)
class Value:
    """A tensor of the graph. dtype: numpy's name (integers are int32 throughout). data: set for constants."""

    shape: tuple[Size, ...]
    dtype: str = "float32"
    data: npt.NDArray[np.generic] | None = None
    name: str = ""

    @property
    def rank(self) -> int:
        """Number of axes."""
        return len(self.shape)


@dataclass(frozen=True)
class Part:
    """A run of output rows of one model parameter; the meaning of the fields is that of layout.json's PART."""

    parameter: str
    rows: tuple[int, int] | None = None
    index: int | None = None
    transpose: bool = False
    deinterleave: tuple[int, int, int] | None = None
    scale: float = 1.0


@dataclass(frozen=True)
class Linear:
    """What a FakeLinear node multiplies with: parts concatenated along the output rows. keep: always fp16."""

    name: str
    out_features: int
    in_features: int
    parts: tuple[Part, ...]
    bias: tuple[Part, ...] | None = None
    keep: bool = False

    def scaled(self, factor: float) -> Linear:
        """Output multiplied by `factor`."""

        def times(parts: tuple[Part, ...]) -> tuple[Part, ...]:
            return tuple(replace(part, scale=part.scale * factor) for part in parts)

        return replace(self, parts=times(self.parts), bias=None if self.bias is None else times(self.bias))


@dataclass(frozen=True)
class Table:
    """A lookup table other than the token embedding, [rows, columns]."""

    name: str
    rows: int
    columns: int
    parameter: str


@dataclass(eq=False)
class Node:
    """One operation. Placeholders (`domain` = CUSTOM_DOMAIN) carry their weight in `linear`."""

    op: str
    inputs: list[Value]
    outputs: list[Value]
    attributes: dict[str, Attribute] = field(default_factory=dict)
    domain: str = ""
    linear: Linear | None = None

    @property
    def output(self) -> Value:
        """The first output."""
        return self.outputs[0]


@dataclass(eq=False)
class Graph:
    """Nodes in topological order, named inputs and outputs, and the tables and experts that placeholders refer to.

    window: the sliding window of the layers that have one; 0 if none has. reach: float32 [L, 1], how many of the next
    tokens each token sees although they come after it (`passes/look_ahead.py`); None where attention is causal.
    within_run: nodes that bring positions together and may: all that they look for stands in one run of the engine.
    """

    nodes: list[Node] = field(default_factory=list)
    inputs: dict[str, Value] = field(default_factory=dict)
    outputs: dict[str, Value] = field(default_factory=dict)
    tables: dict[str, Table] = field(default_factory=dict)
    experts: dict[str, Experts] = field(default_factory=dict)
    window: int = 0
    reach: Value | None = None
    within_run: set[Node] = field(default_factory=set)

    def producers(self) -> dict[Value, Node]:
        """Value → the node that writes it (inputs and constants have none)."""
        return {value: node for node in self.nodes for value in node.outputs}

    def consumers(self) -> dict[Value, list[Node]]:
        """Value → nodes that read it, once per reading input. Graph outputs are not counted."""
        found: dict[Value, list[Node]] = defaultdict(list)
        for node in self.nodes:
            for value in node.inputs:
                found[value].append(node)
        return found

    def read_once(self, value: Value, consumers: dict[Value, list[Node]]) -> bool:
        """True if exactly one node input reads `value`, and the graph does not give it out."""
        return len(consumers[value]) == 1 and value not in self.outputs.values()

    def replace_value(self, old: Value, new: Value) -> None:
        """Lets every reader of `old` read `new`."""
        for node in self.nodes:
            node.inputs = [new if value is old else value for value in node.inputs]
        self.outputs = {name: new if value is old else value for name, value in self.outputs.items()}

    def linears(self) -> Iterator[Linear]:
        """The linears of the graph's placeholders in graph order, each once."""
        seen = set()
        for node in self.nodes:
            if node.linear is not None and node.linear.name not in seen:
                seen.add(node.linear.name)
                yield node.linear


@dataclass(eq=False)
class Experts:
    """A mixture-of-experts placeholder: one graph for all of its experts, and every expert's own linears."""

    name: str
    graph: Graph
    count: int

    def linears(self) -> Iterator[Linear]:
        """Every expert's linears, by expert: the template's, with the expert's number as index of each part."""
        for number in range(self.count):
            for linear in self.graph.linears():
                yield replace(
                    linear,
                    name=f"{self.name}.{number}.{linear.name}",
                    parts=_of_expert(linear.parts, self.name, number),
                    bias=None if linear.bias is None else _of_expert(linear.bias, self.name, number),
                )


def _of_expert(parts: tuple[Part, ...], module: str, number: int) -> tuple[Part, ...]:
    return tuple(replace(part, parameter=f"{module}.{part.parameter}", index=number) for part in parts)


class Builder:
    """Appends nodes to a graph."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph

    def emit(
        self,
        op: str,
        inputs: Sequence[Value],
        shape: Sequence[Size],
        dtype: str = "float32",
        /,
        *,
        domain: str = "",
        linear: Linear | None = None,
        **attributes: Attribute,
    ) -> Value:
        """A node with one output; returns the output."""
        output = Value(tuple(shape), dtype)
        self.graph.nodes.append(Node(op, list(inputs), [output], attributes, domain, linear))
        return output

    def emit_many(
        self, op: str, inputs: Sequence[Value], outputs: Sequence[Value], domain: str = "", /, **attributes: Attribute
    ) -> None:
        """A node with several outputs."""
        self.graph.nodes.append(Node(op, list(inputs), list(outputs), attributes, domain))


def constant(data: npt.ArrayLike, dtype: str = "float32") -> Value:
    """A constant value."""
    array = np.asarray(data, dtype=dtype)
    return Value(array.shape, dtype, array)

"""Where the graph lets the scale of a linear's input be folded into what makes that input.

Read off the skeleton, so that every reader of a tensor is known: a norm whose output goes to linears alone; a linear
whose output is one factor of a product that one linear reads (up → down); attention values that one linear reads
(v → o), where the heads that share a value head share its scales.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Json = Mapping[str, Any]


@dataclass(frozen=True)
class FoldPoint:
    """scaled: linears that read the same input. Its division goes into the norm operator `norm`, or into the rows of
    `linear`. channels: [in_features], the output channel of it that each input channel comes from."""

    scaled: tuple[str, ...]
    channels: NDArray[np.intp]
    norm: str = ""
    linear: str = ""


def fold_points(skeleton: Json) -> list[FoldPoint]:
    """All of them, in the graph's order. skeleton: skeleton.json."""
    graph = _Graph(skeleton["oplists"])
    points = []
    for operator in skeleton["oplists"]:
        if operator["type"] == "LayerNorm":
            points.append(_of_norm(operator, graph))
        elif operator["type"] == "BinaryOp" and operator["main"]["opType"] == "MUL":
            points.append(_of_product(operator, graph))
        elif _placeholder(operator) == "FusedAttention":
            points.append(_of_attention(operator, graph))
    return [point for point in points if point is not None]


@dataclass
class _Graph:
    operators: list[Json]
    producers: dict[int, Json] = field(default_factory=dict)
    readers: dict[int, list[Json]] = field(default_factory=lambda: defaultdict(list))
    names: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        for operator in self.operators:
            self.names[operator["name"]] += 1
            self.producers.update(dict.fromkeys(operator.get("outputIndexes") or [], operator))
            for tensor in operator.get("inputIndexes") or []:
                self.readers[tensor].append(operator)

    def maker(self, tensor: int) -> Json | None:
        """The operator that made `tensor`, reshapes aside, if nothing else reads it on the way."""
        operator = self.producers.get(tensor)
        while operator is not None and len(self.readers[tensor]) == 1 and operator["type"] == "Reshape":
            tensor = operator["inputIndexes"][0]
            operator = self.producers.get(tensor)
        return operator if len(self.readers[tensor]) == 1 else None

    def linears(self, tensor: int) -> list[str]:
        """Names of the linears that read `tensor`; [] if anything else does."""
        readers = self.readers[tensor]
        if not all(_placeholder(one) == "FakeLinear" for one in readers):
            return []
        return [str(_attributes(one)["name"]) for one in readers]

    def shares_values(self) -> bool:
        """Whether some layer attends to the values of another: then more than one linear reads them."""
        return any(
            _placeholder(one) == "FusedAttention" and _attributes(one).get("kv_shared_layer_index", -1) >= 0
            for one in self.operators
        )


def _of_norm(operator: Json, graph: _Graph) -> FoldPoint | None:
    (tensor,) = operator["outputIndexes"]
    names, size = graph.linears(tensor), len(operator["main"].get("gamma") or [])
    if not names or graph.names[operator["name"]] > 1:
        return None
    if any(_attributes(one)["in_features"] != size for one in graph.readers[tensor]):
        return None
    return FoldPoint(tuple(names), np.arange(size), norm=operator["name"])


def _of_product(operator: Json, graph: _Graph) -> FoldPoint | None:
    names = graph.linears(operator["outputIndexes"][0])
    if len(names) != 1:
        return None
    size = _attributes(graph.readers[operator["outputIndexes"][0]][0])["in_features"]
    for tensor in operator["inputIndexes"]:
        maker = graph.maker(tensor)
        if _is_linear(maker, size):
            return FoldPoint(tuple(names), np.arange(size), linear=_attributes(maker)["name"])
    return None


def _of_attention(operator: Json, graph: _Graph) -> FoldPoint | None:
    names = graph.linears(operator["outputIndexes"][0])
    value = graph.maker(operator["inputIndexes"][2])
    head_dim = _last_axis(graph.producers.get(operator["inputIndexes"][2]), graph)
    if len(names) != 1 or not _is_linear(value) or not head_dim or graph.shares_values():
        return None
    inputs = _attributes(graph.readers[operator["outputIndexes"][0]][0])["in_features"]
    outputs = _attributes(value)["out_features"]
    if inputs % outputs or outputs % head_dim:
        return None
    heads = np.repeat(np.arange(outputs).reshape(-1, head_dim), inputs // outputs, axis=0)
    return FoldPoint(tuple(names), heads.reshape(-1), linear=_attributes(value)["name"])


def _is_linear(operator: Json | None, out_features: int | None = None) -> bool:
    if operator is None or _placeholder(operator) != "FakeLinear":
        return False
    return out_features is None or _attributes(operator)["out_features"] == out_features


def _last_axis(operator: Json | None, graph: _Graph) -> int:
    """The last axis of what a Reshape makes, or 0."""
    if operator is None or operator["type"] != "Reshape":
        return 0
    shape = graph.producers.get(operator["inputIndexes"][1]) if len(operator["inputIndexes"]) > 1 else None
    dims = (shape or {}).get("main", {}).get("int32s") or operator["main"].get("dims") or [0]
    return max(int(dims[-1]), 0)


def _placeholder(operator: Json) -> str:
    return str(operator["main"].get("type")) if operator["type"] == "Extra" else ""


def _attributes(operator: Json | None) -> dict[str, Any]:
    assert operator is not None
    return {entry["key"]: entry.get("s", entry.get("i")) for entry in operator["main"].get("attr", [])}

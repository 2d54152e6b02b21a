"""layout.json: what the weight file must hold, and what else later stages must know of the graph."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from typing import Any

from pipeline.errors import UserError
from pipeline.graph.attention import layer_of
from pipeline.graph.bindings import Bindings
from pipeline.graph.ir import Graph, Linear, Part

FORMAT = 1


def linears(graph: Graph, bindings: Bindings) -> list[dict[str, Any]]:
    """The entries of every FakeLinear, experts' included, in graph order."""
    found = [_linear(linear, bindings) for linear in graph.linears()]
    for experts in graph.experts.values():
        found += [_linear(linear, bindings) for linear in experts.linears()]
    return found


def tables(graph: Graph, bindings: Bindings) -> list[dict[str, Any]]:
    """The entries of the lookup tables."""
    return [
        {
            "name": table.name,
            "rows": table.rows,
            "columns": table.columns,
            "parts": parts(bindings, [Part(table.parameter)]),
        }
        for table in graph.tables.values()
    ]


def parts(bindings: Bindings, wanted: Iterable[Part]) -> list[dict[str, Any]]:
    """PARTs of checkpoint tensors."""
    return [
        {
            "tensor": part.parameter,
            "rows": None if part.rows is None else list(part.rows),
            "index": part.index,
            "transpose": part.transpose,
            "deinterleave": None if part.deinterleave is None else list(part.deinterleave),
            "scale": part.scale,
        }
        for part in bindings.parts(wanted)
    ]


def flagged(parts: list[dict[str, Any]], rows: int, flags: Mapping[int, float]) -> list[dict[str, Any]]:
    """A token table's parts, cut so that each row of `flags` is one with a "marker" of its own.

    Raises UserError for a table that is no single tensor of the checkpoint, if there are flags.
    """
    if not flags:
        return parts
    if len(parts) != 1 or parts[0]["rows"] is not None:
        raise UserError("the token table is no single tensor of the checkpoint, so no token of it can be flagged")
    ends = sorted({0, rows, *flags, *(row + 1 for row in flags)})
    cut = [(first, last) for first, last in itertools.pairwise(ends) if first < last <= rows]
    return [{**parts[0], "rows": [first, last], "marker": flags.get(first, 0.0)} for first, last in cut]


def _linear(linear: Linear, bindings: Bindings) -> dict[str, Any]:
    return {
        "name": linear.name,
        "out_features": linear.out_features,
        "in_features": linear.in_features,
        "parts": parts(bindings, linear.parts),
        "bias": None if linear.bias is None else parts(bindings, linear.bias),
        "layer": layer_of(linear.name),
        "keep": linear.keep,
    }

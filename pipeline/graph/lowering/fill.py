"""New tensors in the shape or type of another."""

from __future__ import annotations

from typing import Any

import torch

from pipeline.graph.ir import Value
from pipeline.graph.tracer import Call, Lowering, Tracer


def filled_like(tracer: Tracer, value: Value, shape: Any, fill: float, dtype: str) -> Value:
    """A tensor of one number in the shape of `value`, whatever that is when the graph runs."""
    return tracer.emit("FilledLike", [value], shape, dtype, value=float(fill))


def _like(fill: float) -> Lowering:
    def lower(tracer: Tracer, call: Call) -> Value:
        number = call.arguments.get("fill_value", fill)
        kinds = {torch.bool: "bool", torch.int64: "int32", torch.int32: "int32"}
        dtype = kinds.get(call.result.dtype, "float32")
        return filled_like(tracer, tracer.value(call["self"]), call.result.shape, number, dtype)

    return lower


def _new(fill: float) -> Lowering:
    """A constant; what is not written over before use (`new_empty`) reads as zero."""

    def lower(tracer: Tracer, call: Call) -> Value:
        number = call.arguments.get("fill_value", fill)
        return tracer.value(torch.full(call.result.shape, number, dtype=call.result.dtype))

    return lower


LOWERINGS: dict[str, Lowering] = {
    "aten::zeros_like": _like(0),
    "aten::ones_like": _like(1),
    "aten::full_like": _like(0),
    "aten::empty_like": _like(0),
    "aten::new_empty": _new(0),
    "aten::new_zeros": _new(0),
    "aten::new_ones": _new(1),
    "aten::new_full": _new(0),
}

"""Operations that encoders use and decoders may not: these bring positions together."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from pipeline.errors import UserError
from pipeline.graph import lowering
from pipeline.graph.ir import Value
from pipeline.graph.tracer import Call, Lowering, Tracer


def _sort(tracer: Tracer, call: Call) -> list[Value]:
    """A full sort of the last axis, as a top-k of all its elements."""
    tensor: torch.Tensor = call["self"]
    axis = int(call["dim"]) % tensor.dim()
    if axis != tensor.dim() - 1:
        raise UserError("the encoder sorts along another axis than the last, which the exporter cannot express")
    value = tracer.value(tensor)
    if value.dtype == "int32":  # the engine's top-k takes floats; places of tokens are exact in float32
        value = tracer.emit("Cast", [value], value.shape, "float32", to="float32")
    sorted_, places = (Value(tuple(tensor.shape)), Value(tuple(tensor.shape), "int32"))
    largest = int(bool(call["descending"]))
    count = int(tensor.shape[-1])
    tracer.emit_many("TopK", [value], [sorted_, places], k=count, axis=axis, largest=largest, sorted=1)
    if call.result[0].dtype.is_floating_point:
        return [sorted_, places]
    return [tracer.emit("Cast", [sorted_], sorted_.shape, "int32", to="int32"), places]


LOWERINGS: Mapping[str, Lowering] = {**lowering.LOWERINGS, "aten::sort": _sort}

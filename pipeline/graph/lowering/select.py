"""Lookups and scatters."""

from __future__ import annotations

import torch

from pipeline.errors import UserError
from pipeline.graph.ir import Value
from pipeline.graph.lowering.fill import filled_like
from pipeline.graph.tracer import Call, Lowering, Tracer


def _embedding(tracer: Tracer, call: Call) -> Value:
    return tracer.emit("Gather", [tracer.value(call["weight"]), tracer.value(call["indices"])], call.result.shape, axis=0)


def _index_select(tracer: Tracer, call: Call) -> Value:
    tensor = call["self"]
    inputs = [tracer.value(tensor), tracer.value(call["index"])]
    return tracer.emit("Gather", inputs, call.result.shape, inputs[0].dtype, axis=int(call["dim"]) % tensor.dim())


def _index(tracer: Tracer, call: Call) -> Value:
    """tensor[..., indices] with one index tensor and whole axes before it."""
    places = [axis for axis, index in enumerate(call["indices"]) if index is not None]
    indices = [call["indices"][axis] for axis in places]
    if len(indices) != 1 or indices[0].dtype == torch.bool:
        raise UserError("the model indexes by several tensors or by a mask, which the exporter cannot express")
    inputs = [tracer.value(call["self"]), tracer.value(indices[0])]
    return tracer.emit("Gather", inputs, call.result.shape, inputs[0].dtype, axis=places[0])


def _gather(tracer: Tracer, call: Call) -> Value:
    tensor = call["self"]
    inputs = [tracer.value(tensor), tracer.value(call["index"])]
    axis = int(call["dim"]) % tensor.dim()
    return tracer.emit("GatherElements", inputs, call.result.shape, inputs[0].dtype, axis=axis)


def _scatter(tracer: Tracer, call: Call) -> Value:
    tensor = call["self"]
    places = tracer.value(call["index"])
    if call.arguments.get("src") is None:
        source = filled_like(tracer, places, call["index"].shape, float(call["value"]), "float32")
    else:
        source = tracer.value(call["src"])
    inputs = [tracer.value(tensor), places, source]
    return tracer.emit("ScatterElements", inputs, call.result.shape, axis=int(call["dim"]) % tensor.dim())


LOWERINGS: dict[str, Lowering] = {
    "aten::embedding": _embedding,
    "aten::index_select": _index_select,
    "aten::index": _index,
    "aten::gather": _gather,
    "aten::scatter": _scatter,
}

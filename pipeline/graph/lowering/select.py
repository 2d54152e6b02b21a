"""Lookups and scatters."""

from __future__ import annotations

import torch

from pipeline.errors import UserError
from pipeline.graph.ir import Value
from pipeline.graph.moves import reshape
from pipeline.graph.tracer import Call, Lowering, Tracer


def _embedding(tracer: Tracer, call: Call) -> Value:
    return tracer.emit(
        "Gather", [tracer.value(call["weight"]), tracer.value(call["indices"])], call.result.shape, axis=0
    )


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
    """One number into chosen places of the last axis: where(any index equals the place, number, tensor).

    The engine's own scatter does not survive the converter's JSON (its `opType` comes out as −1).
    """
    tensor, index = call["self"], call["index"]
    if call.arguments.get("src") is not None or int(call["dim"]) % tensor.dim() != tensor.dim() - 1:
        raise UserError("the model scatters a tensor, or not along the last axis, which the exporter cannot express")
    front, count, places = index.shape[:-1], index.shape[-1], tensor.shape[-1]
    column = reshape(tracer, tracer.value(index), (*front, count, 1))
    number = tracer.value(torch.arange(places, dtype=torch.int32))
    equal = tracer.emit("Equal", [column, number], (*front, count, places), "bool")
    hits = tracer.emit("Cast", [equal], (*front, count, places), to="float32")
    hit = tracer.emit("ReduceMax", [hits], (*front, places), axes=(len(front),), keepdims=0)
    chosen = tracer.emit("Greater", [hit, tracer.value(0.5)], (*front, places), "bool")
    inputs = [chosen, tracer.value(float(call["value"])), tracer.value(tensor)]
    return tracer.emit("Where", inputs, tensor.shape)


LOWERINGS: dict[str, Lowering] = {
    "aten::embedding": _embedding,
    "aten::index_select": _index_select,
    "aten::index": _index,
    "aten::gather": _gather,
    "aten::scatter": _scatter,
}

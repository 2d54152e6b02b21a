"""Reductions, softmax, top-k and matrix products of activations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from pipeline.errors import UserError
from pipeline.graph.ir import Value
from pipeline.graph.tracer import Call, Lowering, Tracer


def _axes(dims: Any, rank: int) -> tuple[int, ...]:
    if dims is None or dims == []:
        return tuple(range(rank))
    listed = dims if isinstance(dims, Sequence) else [dims]
    return tuple(sorted(int(axis) % rank for axis in listed))


def _reduce(op: str) -> Lowering:
    def lower(tracer: Tracer, call: Call) -> Value:
        tensor = call["self"]
        dtype = "float32" if call.result.dtype.is_floating_point else "int32"
        axes = _axes(call.arguments.get("dim"), tensor.dim())
        keep = int(call.arguments.get("keepdim") or 0)
        value = tracer.value(tensor)
        if value.dtype == "bool":
            value = tracer.emit("Cast", [value], tensor.shape, dtype, to=dtype)
        return tracer.emit(op, [value], call.result.shape, dtype, axes=axes, keepdims=keep)

    return lower


def _softmax(tracer: Tracer, call: Call) -> Value:
    tensor = call["self"]
    return tracer.emit("Softmax", [tracer.value(tensor)], call.result.shape, axis=int(call["dim"]) % tensor.dim())


def _log_softmax(tracer: Tracer, call: Call) -> Value:
    return tracer.emit("Log", [_softmax(tracer, call)], call.result.shape)


def _topk(tracer: Tracer, call: Call) -> list[Value]:
    tensor = call["self"]
    values, places = call.result
    axis = int(call["dim"]) % tensor.dim()
    if axis != tensor.dim() - 1:
        raise UserError("the model takes a top-k over another axis than the last, which the exporter cannot express")
    outputs = [Value(tuple(values.shape)), Value(tuple(places.shape), "int32")]
    largest = int(call["largest"])
    tracer.emit_many("TopK", [tracer.value(tensor)], outputs, k=int(call["k"]), axis=axis, largest=largest, sorted=1)
    return outputs


def _max_dim(tracer: Tracer, call: Call) -> Value | list[Value]:
    if isinstance(call.result, torch.Tensor):
        return _reduce("ReduceMax")(tracer, call)  # type: ignore[return-value]
    values, places = call.result
    tensor, keep = call["self"], int(call["keepdim"])
    axis = int(call["dim"]) % tensor.dim()
    value = tracer.value(tensor)
    best = tracer.emit("ReduceMax", [value], values.shape, axes=(axis,), keepdims=keep)
    return [best, tracer.emit("ArgMax", [value], places.shape, "int32", axis=axis, keepdims=keep)]


def _argmax(tracer: Tracer, call: Call) -> Value:
    tensor = call["self"]
    axis = int(call["dim"]) % tensor.dim()
    keep = int(call["keepdim"])
    return tracer.emit("ArgMax", [tracer.value(tensor)], call.result.shape, "int32", axis=axis, keepdims=keep)


def _cumsum(tracer: Tracer, call: Call) -> Value:
    tensor = call["self"]
    value = tracer.value(tensor)
    return tracer.emit("CumSum", [value], call.result.shape, value.dtype, axis=int(call["dim"]) % tensor.dim())


def _matmul(tracer: Tracer, call: Call) -> Value:
    other = call.arguments.get("mat2")
    return tracer.emit("MatMul", [tracer.value(call["self"]), tracer.value(other)], call.result.shape)


def _add_product(tracer: Tracer, call: Call) -> Value:
    """aten::addmm and aten::baddbmm: beta · self + alpha · (first @ second)."""
    names = ("mat1", "mat2") if "mat1" in call.arguments else ("batch1", "batch2")
    product = tracer.emit("MatMul", [tracer.value(call[name]) for name in names], call.result.shape)
    terms = [(call["beta"], tracer.value(call["self"])), (call["alpha"], product)]
    scaled = [
        value if factor == 1 else tracer.emit("Mul", [value, tracer.value(float(factor))], call.result.shape)
        for factor, value in terms
    ]
    return tracer.emit("Add", scaled, call.result.shape)


def _convolution(tracer: Tracer, call: Call) -> Value:
    raise UserError(
        "the model convolves along the sequence, so it remembers more than attention's keys and values; "
        "the graph has no place for such a state"
    )


LOWERINGS: dict[str, Lowering] = {
    "aten::mean": _reduce("ReduceMean"),
    "aten::sum": _reduce("ReduceSum"),
    "aten::amax": _reduce("ReduceMax"),
    "aten::amin": _reduce("ReduceMin"),
    "aten::linalg_vector_norm": _reduce("ReduceL2"),
    "aten::max": _max_dim,
    "aten::argmax": _argmax,
    "aten::_softmax": _softmax,
    "aten::softmax": _softmax,
    "aten::_log_softmax": _log_softmax,
    "aten::topk": _topk,
    "aten::cumsum": _cumsum,
    "aten::convolution": _convolution,
    "aten::mm": _matmul,
    "aten::bmm": _matmul,
    "aten::addmm": _add_product,
    "aten::baddbmm": _add_product,
}

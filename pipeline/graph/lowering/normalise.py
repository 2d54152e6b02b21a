"""Normalisations, taken apart into the operations that the converter puts together again as its LayerNorm."""

from __future__ import annotations

from pipeline.errors import UserError
from pipeline.graph.ir import Value
from pipeline.graph.tracer import Call, Lowering, Tracer


def _layer_norm(tracer: Tracer, call: Call) -> list[Value]:
    value, shape = tracer.value(call["input"]), call.result[0].shape
    if len(call["normalized_shape"]) != 1:
        raise UserError("the model normalises over several axes, which the exporter cannot express")
    axis, small = value.rank - 1, (*shape[:-1], 1)
    mean = tracer.emit("ReduceMean", [value], small, axes=(axis,), keepdims=1)
    centred = tracer.emit("Sub", [value, mean], shape)
    square = tracer.emit("Pow", [centred, tracer.value(2.0)], shape)
    variance = tracer.emit("ReduceMean", [square], small, axes=(axis,), keepdims=1)
    root = tracer.emit("Sqrt", [tracer.emit("Add", [variance, tracer.value(float(call["eps"]))], small)], small)
    result = tracer.emit("Div", [centred, root], shape)
    return [_affine(tracer, call, result, shape), mean, root]


def _affine(tracer: Tracer, call: Call, value: Value, shape: tuple[int, ...]) -> Value:
    for op, name in (("Mul", "weight"), ("Add", "bias")):
        if call.arguments.get(name) is not None:
            value = tracer.emit(op, [value, tracer.value(call[name])], shape)
    return value


def _rms_norm(tracer: Tracer, call: Call) -> list[Value]:
    value, shape = tracer.value(call["input"]), call.result[0].shape
    axis, small = value.rank - 1, (*shape[:-1], 1)
    epsilon = call["eps"] if call["eps"] is not None else 1.1920928955078125e-07  # float32's, as torch takes it
    square = tracer.emit("Pow", [value, tracer.value(2.0)], shape)
    mean = tracer.emit("ReduceMean", [square], small, axes=(axis,), keepdims=1)
    root = tracer.emit("Sqrt", [tracer.emit("Add", [mean, tracer.value(float(epsilon))], small)], small)
    inverse = tracer.emit("Div", [tracer.value(1.0), root], small)
    return [_affine(tracer, call, tracer.emit("Mul", [value, inverse], shape), shape), inverse]


LOWERINGS: dict[str, Lowering] = {
    "aten::native_layer_norm": _layer_norm,
    "aten::_fused_rms_norm": _rms_norm,
}

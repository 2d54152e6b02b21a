"""Operations that move elements without computing: reshapes, transposes, slices, concatenation."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from pipeline.errors import UserError
from pipeline.graph.ir import Value
from pipeline.graph.moves import concatenate, cut, pad, reshape, transpose
from pipeline.graph.tracer import Call, Lowering, Tracer


def _axis(call: Call, tensor: torch.Tensor, name: str = "dim") -> int:
    axis = int(call[name])
    return axis + tensor.dim() if axis < 0 else axis


def _reshape(tracer: Tracer, call: Call) -> Value:
    return reshape(tracer, tracer.value(call["self"]), call.result.shape)


def _transpose(tracer: Tracer, call: Call) -> Value:
    rank = call["self"].dim()
    order = list(range(rank))
    first, second = int(call["dim0"]) % rank, int(call["dim1"]) % rank
    order[first], order[second] = order[second], order[first]
    return transpose(tracer, tracer.value(call["self"]), order)


def _matrix_transpose(tracer: Tracer, call: Call) -> Value:
    value = tracer.value(call["self"])
    return transpose(tracer, value, (1, 0)) if value.rank == 2 else value


def _permute(tracer: Tracer, call: Call) -> Value:
    rank = call["self"].dim()
    return transpose(tracer, tracer.value(call["self"]), [int(axis) % rank for axis in call["dims"]])


def _expand(tracer: Tracer, call: Call) -> Value:
    value = tracer.value(call["self"])
    shape = tuple(call.result.shape)
    padded = (1,) * (len(shape) - value.rank) + value.shape
    value = reshape(tracer, value, padded)
    return value if padded == shape else tracer.emit("Expand", [value], shape, value.dtype, shape=shape)


def _slice(tracer: Tracer, call: Call) -> Value:
    tensor = call["self"]
    axis = _axis(call, tensor)
    start, stop, step = slice(call["start"], call["end"], call["step"]).indices(tensor.shape[axis])
    if step == 1:
        tracer.slices[id(call.result)] = (tensor, axis, start, stop)
    return cut(tracer, tracer.value(tensor), axis, start, stop, step)


def _select(tracer: Tracer, call: Call) -> Value:
    tensor = call["self"]
    axis = _axis(call, tensor)
    index = int(call["index"]) % tensor.shape[axis]
    return reshape(tracer, cut(tracer, tracer.value(tensor), axis, index, index + 1), call.result.shape)


def _pieces(tracer: Tracer, tensor: torch.Tensor, axis: int, results: Sequence[torch.Tensor]) -> list[Value]:
    start, pieces = 0, []
    for result in results:
        stop = start + result.shape[axis]
        pieces.append(cut(tracer, tracer.value(tensor), axis, start, stop))
        start = stop
    return pieces


def _split(tracer: Tracer, call: Call) -> list[Value]:
    return _pieces(tracer, call["self"], _axis(call, call["self"]), call.result)


def _unbind(tracer: Tracer, call: Call) -> list[Value]:
    value, axis = tracer.value(call["self"]), _axis(call, call["self"])
    return [
        reshape(tracer, cut(tracer, value, axis, index, index + 1), result.shape)
        for index, result in enumerate(call.result)
    ]


def _cat(tracer: Tracer, call: Call) -> Value:
    tensors = call["tensors"]
    return concatenate(
        tracer, [tracer.value(tensor) for tensor in tensors], _axis(call, call.result), call.result.shape
    )


def _stack(tracer: Tracer, call: Call) -> Value:
    axis, shape = _axis(call, call.result), list(call.result.shape)
    shape[axis] = 1
    values = [reshape(tracer, tracer.value(tensor), shape) for tensor in call["tensors"]]
    return concatenate(tracer, values, axis, call.result.shape)


def _pad(tracer: Tracer, call: Call) -> Value:
    value, pads = tracer.value(call["self"]), [int(size) for size in call["pad"]]
    if any(size < 0 for size in pads):
        raise UserError("the model pads by a negative size, which the exporter cannot express")
    before, after = [0] * value.rank, [0] * value.rank
    for number in range(len(pads) // 2):  # torch counts from the last axis
        before[-1 - number], after[-1 - number] = pads[2 * number], pads[2 * number + 1]
    return pad(tracer, value, before, after, float(call["value"] or 0))


LOWERINGS: dict[str, Lowering] = {
    "aten::view": _reshape,
    "aten::_unsafe_view": _reshape,
    "aten::reshape": _reshape,
    "aten::unsqueeze": _reshape,
    "aten::squeeze": _reshape,
    "aten::flatten": _reshape,
    "aten::transpose": _transpose,
    "aten::t": _matrix_transpose,
    "aten::permute": _permute,
    "aten::expand": _expand,
    "aten::slice": _slice,
    "aten::select": _select,
    "aten::split": _split,
    "aten::split_with_sizes": _split,
    "aten::unbind": _unbind,
    "aten::cat": _cat,
    "aten::stack": _stack,
    "aten::constant_pad_nd": _pad,
}

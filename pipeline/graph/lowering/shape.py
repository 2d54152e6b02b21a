"""Operations that move elements without computing: reshapes, transposes, slices, concatenation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from pipeline.errors import UserError
from pipeline.graph.ir import Builder, Size, Value
from pipeline.graph.tracer import Call, Lowering, Tracer


def reshape(builder: Builder, value: Value, shape: Sequence[Size]) -> Value:
    """`value` in another shape of the same number of elements."""
    shape = tuple(shape)
    if shape == value.shape:
        return value
    return builder.emit("Reshape", [value], shape, value.dtype, shape=shape)


def transpose(builder: Builder, value: Value, order: Sequence[int]) -> Value:
    """`value` with its axes in `order`."""
    shape = [value.shape[axis] for axis in order]
    return builder.emit("Transpose", [value], shape, value.dtype, perm=tuple(order))


def cut(builder: Builder, value: Value, axis: int, start: int, stop: int, step: int = 1) -> Value:
    """Elements start … stop of one axis."""
    shape = list(value.shape)
    if (start, stop, step) == (0, shape[axis], 1):
        return value
    shape[axis] = len(range(start, stop, step))
    return builder.emit("Slice", [value], shape, value.dtype, start=start, stop=stop, axis=axis, step=step)


def concatenate(builder: Builder, values: Sequence[Value], axis: int, shape: Sequence[Size]) -> Value:
    """`values` one after the other along `axis`."""
    values = [value for value in values if 0 not in value.shape]
    if len(values) == 1:
        return values[0]
    return builder.emit("Concat", values, shape, values[0].dtype, axis=axis)


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
    value: Value = tracer.value(call["self"])
    pads: list[Any] = list(call["pad"])
    if any(pad < 0 for pad in pads):
        raise UserError("the model pads by a negative size, which the exporter cannot express")
    for number in range(len(pads) // 2):
        axis = value.rank - 1 - number
        value = _pad_axis(tracer, value, axis, pads[2 * number], pads[2 * number + 1], call["value"])
    return value


def _pad_axis(tracer: Tracer, value: Value, axis: int, before: int, after: int, fill: float) -> Value:
    shape: Any = value.shape

    def filled(count: int) -> list[Value]:
        if not count:
            return []
        piece = torch.full([*shape[:axis], count, *shape[axis + 1 :]], fill, dtype=torch.float32)
        return [tracer.value(piece)]

    whole = [*shape[:axis], shape[axis] + before + after, *shape[axis + 1 :]]
    return concatenate(tracer, [*filled(before), value, *filled(after)], axis, whole)


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

"""Nodes that move elements without computing, for lowerings, placeholders and passes alike."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.graph.ir import Builder, Size, Value


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


def pad(builder: Builder, value: Value, before: Sequence[int], after: Sequence[int], fill: float = 0.0) -> Value:
    """`value` with `fill` before and after each axis; an axis that grows with the sequence is not padded."""
    shape = [
        size if first == last == 0 else _fixed(size) + first + last
        for size, first, last in zip(value.shape, before, after, strict=True)
    ]
    return builder.emit("Pad", [value], shape, value.dtype, pads=(*before, *after), value=fill)


def _fixed(size: Size) -> int:
    assert isinstance(size, int)
    return size

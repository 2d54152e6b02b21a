"""Rotary embeddings over several axes (mrope of text, rows and columns of a picture): which column is whose angle.

transformers' modules say it in `recomposition_frequencies`, a function that only moves columns. It is tried out once
with distinct numbers; the graph then looks every axis up in the same tables and picks columns by a constant index.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from pipeline.errors import UserError
from pipeline.graph.ir import Value, constant
from pipeline.graph.moves import reshape, transpose
from pipeline.graph.tracer import Tracer

Angles = Callable[[Value], tuple[Value, Value]]


def recomposed(
    tracer: Tracer, original: Any, position_ids: torch.Tensor, angles: Angles
) -> tuple[torch.Tensor, torch.Tensor]:
    """cos and sin of a module whose positions have several axes.

    position_ids: [axes, 1, sequence] (text; the result is [1, sequence, dim]) or [patches, axes] (a tower; [patches,
    dim]). angles: int32 [n] -> cos and sin, float32 [1, n, frequencies]. Raises UserError for another shape.
    """
    shape = tuple(int(size) for size in position_ids.shape)
    is_text = len(shape) == 3
    if not is_text and len(shape) != 2:
        raise UserError(f"the model gives its rotary embedding positions of shape {list(shape)}")
    axes, count = (shape[0], shape[2]) if is_text else (shape[1], shape[0])
    pair = angles(reshape(tracer, tracer.value(position_ids), (axes * count,)))
    width = int(pair[0].shape[-1])  # type: ignore[arg-type]
    index = _columns(tracer, original, axes, width, is_text)
    cos, sin = (_picked(tracer, value, (axes, count, width), index, is_text) for value in pair)
    if is_text:
        half = len(index) // 2
        if not torch.equal(index[:half], index[half:]):
            raise UserError("the model's rotary embedding does not lay out its angles in two equal halves")
        tracer.rotary_pairs.update(dict.fromkeys((cos, sin), (cos, sin)))
    return tracer.tensor(cos), tracer.tensor(sin)


def _columns(tracer: Tracer, original: Any, axes: int, width: int, is_text: bool) -> torch.Tensor:
    """For every output column the input column (axis · width + frequency) that it is a copy of, int64 [dim]."""
    numbers = torch.arange(axes * width, dtype=torch.float32)
    sample = numbers.reshape(axes, 1, 1, width) if is_text else numbers.reshape(1, axes, width)
    with tracer.paused(), torch.no_grad():
        index: torch.Tensor = original.recomposition_frequencies(sample.clone()).flatten().long()
    return index


def _picked(
    tracer: Tracer, value: Value, sizes: tuple[int, int, int], index: torch.Tensor, is_text: bool
) -> Value:
    axes, count, width = sizes
    value = reshape(tracer, value, (axes, count, width) if is_text else (count, axes, width))
    if is_text:
        value = transpose(tracer, value, (1, 0, 2))
    flat = reshape(tracer, value, (count, axes * width))
    picked = tracer.emit("Gather", [flat, constant(index.numpy(), "int32")], (count, len(index)), axis=1)
    return reshape(tracer, picked, (1, count, len(index))) if is_text else picked

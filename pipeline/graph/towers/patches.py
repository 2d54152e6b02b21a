"""A convolution whose windows do not overlap is a matrix product over patches: it becomes a linear's placeholder.

The engine's converter brings real convolutions back as zeros through its JSON; and as a linear the patch embedding goes
through the same weight writer as everything else. It stays fp16: its inputs are 3 · 14 · 14 = 588 or 2 · 588 numbers,
which no usual block divides.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from pipeline.errors import UserError
from pipeline.graph.ir import Linear, Part
from pipeline.graph.linear import fake_linear
from pipeline.graph.tracer import Tracer


def convolution(
    tracer: Tracer,
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Any:
    """The rule for torch's conv2d and conv3d: x [batch, channels, *sizes] → [batch, out, *grid].

    Raises UserError for windows that overlap or are padded.
    """
    name = tracer.parameter_name(weight)
    if name is None or not tracer.is_symbolic(x):
        return NotImplemented
    kernel = tuple(int(size) for size in weight.shape[2:])
    plain = padding == "valid" or not any(_spread(padding, len(kernel)))
    if not plain or _spread(stride, len(kernel)) != kernel or groups != 1 or set(_spread(dilation, len(kernel))) != {1}:
        raise UserError(f"the encoder's convolution {name} is not a cut into patches, which alone can be expressed")
    grid = [int(size) // step for size, step in zip(x.shape[2:], kernel, strict=True)]
    rows = _patches(x, grid, kernel)
    parts = (Part(name),)
    bias_name = None if bias is None else tracer.parameter_name(bias)
    linear = Linear(
        name.removesuffix(".weight"),
        int(weight.shape[0]),
        int(rows.shape[1]),
        parts,
        None if bias_name is None else (Part(bias_name),),
        keep=True,
    )
    product = tracer.tensor(fake_linear(tracer, tracer.value(rows), linear, (int(rows.shape[0]), int(weight.shape[0]))))
    if all(size == 1 for size in grid):
        return product.reshape(x.shape[0], -1, *grid)
    return product.reshape(x.shape[0], *grid, -1).movedim(-1, 1)


def _patches(x: torch.Tensor, grid: Sequence[int], kernel: Sequence[int]) -> torch.Tensor:
    """[batch · patches, channels · window] in the weight's own order of channels and window."""
    batch, channels = int(x.shape[0]), int(x.shape[1])
    width = channels * math.prod(kernel)
    if all(size == 1 for size in grid):
        return x.reshape(batch, width)
    split = x.reshape(batch, channels, *(number for pair in zip(grid, kernel, strict=True) for number in pair))
    axes = range(len(grid))
    order = [0, *(2 + 2 * axis for axis in axes), 1, *(3 + 2 * axis for axis in axes)]
    return split.permute(order).reshape(batch * math.prod(grid), width)


def _spread(value: Any, count: int) -> tuple[int, ...]:
    return tuple(int(item) for item in value) if isinstance(value, tuple | list) else (int(value),) * count

"""Convolutions and averages along time, as slices and matrix products.

The engine's converter brings real convolutions back as zeros through its JSON. A convolution with a window of k frames
is a linear over k shifted copies of the sequence, which goes through the weight writer like everything else.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

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
    """The rule for torch's conv1d: x [batch, channels, T] → [batch, out, (T + 2 · padding − k) // stride + 1].

    Raises UserError for groups or a dilation.
    """
    name = tracer.parameter_name(weight)
    if name is None or not tracer.is_symbolic(x):
        return NotImplemented
    out, channels, width = (int(size) for size in weight.shape)
    step, (around,) = _one(stride), (_one(padding),)
    if groups != 1 or _one(dilation) != 1:
        raise UserError(f"the encoder's convolution {name} is dilated or grouped")
    padded = _padded(x, around)
    length = int(padded.shape[2])
    # Ends are counted from the back, so that they fit any length: window j reaches to width − 1 − j before the end.
    copies = [padded[:, :, first : length - (width - 1 - first) : step] for first in range(width)]
    rows = torch.stack(copies, -1).transpose(1, 2)  # [batch, frames, channels, width], as the weight's columns lie
    batch, count = int(rows.shape[0]), int(rows.shape[1])
    rows = rows.reshape(batch * count, channels * width)
    bias_name = None if bias is None else tracer.parameter_name(bias)
    bias_parts = None if bias_name is None else (Part(bias_name),)
    # Small beside the rest, and the first thing that a sound meets: fp16, as patch embeddings are.
    linear = Linear(name.removesuffix(".weight"), out, channels * width, (Part(name),), bias_parts, keep=True)
    product = tracer.tensor(fake_linear(tracer, tracer.value(rows), linear, (batch * count, out)))
    return product.reshape(batch, count, out).transpose(1, 2)


def average(tracer: Tracer, x: torch.Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0, *_: Any) -> Any:
    """The rule for torch's avg_pool1d of neighbouring pairs: x [1, channels, T] → [1, channels, T // 2]."""
    if not tracer.is_symbolic(x):
        return NotImplemented
    if (_one(kernel_size), _one(kernel_size if stride is None else stride), _one(padding)) != (2, 2, 0):
        raise UserError("the encoder averages other than pairs of frames")
    # An odd last frame falls out: the first of a pair ends one before the end, the second begins one after the start.
    return (x[:, :, 0 : int(x.shape[2]) - 1 : 2] + x[:, :, 1::2]) * 0.5


def numbers(x: torch.Tensor) -> torch.Tensor:
    """int64 [T]: 0, 1, 2 … along the second axis of x [1, T, size], for whatever T the engine feeds."""
    ones = (x[0, :, 0] * 0.0) + 1.0
    return ones.cumsum(0).to(torch.int64) - 1


def cut_into(x: torch.Tensor, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """x [1, channels, T], of any T ≥ 1, as chunks [n, channels, size], the last filled up with zeros; and how many of
    each chunk's frames are the sound's, int64 [n]."""
    channels = int(x.shape[1])
    frames = (x[0, 0] * 0.0 + 1.0).sum()[None]
    first = numbers(x[0, :1, ::size, None]).float() * size
    place = (first[:, None] + torch.arange(size, dtype=torch.float32)).reshape(-1)
    place = torch.minimum(place, frames).to(torch.int64)  # all beyond the sound: the one frame of zeros behind it
    padded = torch.cat([x[0], torch.zeros(channels, 1)], 1)
    chunks = torch.index_select(padded, 1, place).reshape(channels, -1, size).transpose(0, 1)
    return chunks, torch.clamp(frames - first, max=float(size)).to(torch.int64)


def _padded(x: torch.Tensor, around: int) -> torch.Tensor:
    if not around:
        return x
    zero = x[:, :, :around] * 0.0
    return torch.cat([zero, x, zero], 2)


def _one(value: Any) -> int:
    found = value[0] if isinstance(value, tuple | list) else value
    if not isinstance(found, int):
        raise UserError("the encoder pads its convolution in a way of its own")
    return found


RULES = {F.conv1d: convolution, F.avg_pool1d: average}

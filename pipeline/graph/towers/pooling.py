"""Averages over a grid of patches, as a reshape and a mean."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from pipeline.errors import UserError
from pipeline.graph.tracer import Tracer


def average(
    tracer: Tracer, x: torch.Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0, *others: Any
) -> Any:
    """The rule for torch's avg_pool2d: x [batch, channels, height, width] → the same over windows side by side.

    Raises UserError for windows that overlap, are padded, or leave a rest.
    """
    if not tracer.is_symbolic(x):
        return NotImplemented
    tall, wide = _pair(kernel_size)
    batch, channels, height, width = x.shape
    plain = _pair(kernel_size if stride is None else stride) == (tall, wide) and _pair(padding) == (0, 0)
    if not plain or height % tall or width % wide:
        raise UserError("the encoder averages over windows that overlap or do not fill its grid")
    return x.reshape(batch, channels, height // tall, tall, width // wide, wide).mean((3, 5))


def _pair(value: Any) -> tuple[int, int]:
    first, second = value if isinstance(value, tuple | list) else (value, value)
    return int(first), int(second)


RULES = {F.avg_pool2d: average}

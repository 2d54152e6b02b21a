"""Where the text after a picture stands, worked out in the graph (`visual.positions=exact`).

In Qwen's models a picture of h x w merged tokens takes max(h, w) positions. The 3.6.1 engine goes on after it with the
number of tokens instead when it decodes, and after a picture that is higher than wide also while it reads the prompt
(MNN: omni.cpp, MropeInfo). So the encoder writes four numbers behind each of a picture's rows, and the decoder counts
for itself: an attention of one head with q = k = 0 is the mean of its values over all tokens so far, the cache's too.
"""

from __future__ import annotations

import torch

from pipeline.graph.attention import emit_attention
from pipeline.graph.decoder import Inputs
from pipeline.graph.moves import reshape
from pipeline.graph.tracer import Tracer

MARKERS = 4
_HEAD = 8  # the smallest head that the engine's attention runs


def markers(position_ids: torch.Tensor, merge: int) -> torch.Tensor:
    """float32 [tokens, 4] of one picture: number from 1, row, column, and 1 − max(h, w) / (h · w).

    position_ids: int [2, patches], rows and columns of the patches, those of one token next to each other.
    """
    first = position_ids.reshape(2, -1, merge * merge)[:, :, 0].float() * (1.0 / merge)
    row, column = first[0], first[1]
    height, width = row.max() + 1, column.max() + 1
    number = row * width + column + 1
    surplus = row * 0 + (1 - torch.maximum(height, width) / (height * width))
    return torch.stack([number, row, column, surplus], -1)


def positions(given: Inputs, limit: int) -> torch.Tensor:
    """int64 [3, L]: time, row and column of every token, below `limit`.

    The engine's own position is used for one thing only: it is 0 for the first token of a sequence and for no other.
    The mean of (is first) over n tokens is 1/n, and n times the mean surplus is what the pictures have to give back.
    """
    marks = given.markers
    assert marks is not None
    number, row, column, surplus = (marks[:, index] for index in range(MARKERS))
    first = (given.positions[0] == 0).float()
    mean = running_mean(given.tracer, [surplus, first], given.layers)
    count = 1.0 / mean[:, 1].clamp(min=1e-6)
    text = count.round() - 1 - mean[:, 0] * count
    in_picture = (number > 0).float()
    time = text + in_picture * (number * surplus - (number - 1))
    return torch.stack([time, time + row, time + column]).round().clamp(0, limit - 1).to(torch.int64)


def running_mean(tracer: Tracer, columns: list[torch.Tensor], layer: int) -> torch.Tensor:
    """float32 [L, 8]: the means of up to 8 columns [L] over all rows up to each, over the whole cached sequence."""
    values = torch.stack([*columns, *[columns[0] * 0] * (_HEAD - len(columns))], -1)
    length = int(values.shape[0])
    value = reshape(tracer, tracer.value(values), (1, 1, length, _HEAD))
    zero = reshape(tracer, tracer.value(values * 0), (1, 1, length, _HEAD))
    mean = emit_attention(tracer, zero, zero, value, layer)
    return tracer.tensor(reshape(tracer, mean, (length, _HEAD)))

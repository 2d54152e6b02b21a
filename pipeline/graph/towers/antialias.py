"""Learned positions of a square grid, resized to the picture's grid of patches by an antialiased bilinear filter.

torch's `interpolate(mode="bilinear", antialias=True, align_corners=False)` is separable: one set of weights along rows,
one along columns. Both follow from a patch's own row and column and the picture's number of them, so they are worked
out in the graph. Along one axis of `size` places, the place p stands at (p + 1/2) · side / size of the learned grid. A
learned position's weight falls linearly to 0 with its distance from there, over one learned position, or over side /
size of them where the picture has fewer places than the grid.
"""

from __future__ import annotations

import torch


def weights(place: torch.Tensor, side: int) -> torch.Tensor:
    """float32 [N, side], rows summing to 1: how much each learned position along one axis counts.

    place: int [N], rows or columns of a whole picture's patches: its largest is the picture's size − 1.
    """
    whole = place.float()
    step = float(side) / (whole.max() + 1)
    centre = (whole + 0.5) * step
    learned = torch.arange(side, dtype=torch.float32) + 0.5
    distance = (learned[None, :] - centre[:, None]).abs() / step.clamp(min=1.0)
    triangle = (1.0 - distance).clamp(min=0.0)
    return triangle / triangle.sum(-1, keepdim=True)


def grid_weights(position_ids: torch.Tensor, side: int) -> torch.Tensor:
    """float32 [N, side · side]: the same for both axes, learned positions row by row.

    position_ids: int [2, N], rows and columns of a whole picture's patches, in any order.
    """
    rows, columns = weights(position_ids[0], side), weights(position_ids[1], side)
    return (rows[:, :, None] * columns[:, None, :]).reshape(-1, side * side)

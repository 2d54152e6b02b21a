"""The graph's weights of learned positions against torch's own antialiased resizing."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from pipeline.graph.towers.antialias import grid_weights

torch.set_num_threads(1)
GRIDS = [(16, 16), (32, 32), (8, 32), (2, 128), (64, 4), (18, 14), (30, 22), (2, 2), (34, 10)]


@pytest.mark.parametrize("side", [16, 5, 33])
@pytest.mark.parametrize(("height", "width"), GRIDS)
def test_weights_are_torchs(side: int, height: int, width: int) -> None:
    table = torch.randn(side * side, 8, generator=torch.Generator().manual_seed(0))
    square = table.reshape(1, side, side, 8).permute(0, 3, 1, 2)
    expected = F.interpolate(square, size=(height, width), mode="bilinear", align_corners=False, antialias=True)
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    order = torch.randperm(height * width)  # the engine's is by blocks of four
    places = torch.stack([rows.flatten(), columns.flatten()])[:, order]
    found = grid_weights(places, side) @ table
    assert (found - expected[0].flatten(1).T[order]).abs().max() < 1e-5 * expected.abs().max()

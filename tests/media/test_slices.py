"""Slices of MiniCPM-V's pictures against transformers' own image processor."""

from __future__ import annotations

import random

import pytest
from transformers.models.minicpmv4_6.image_processing_pil_minicpmv4_6 import MiniCPMV4_6ImageProcessorPil

from pipeline.errors import UserError
from pipeline.media.prepare import prepare
from pipeline.media.slices import picture_size, slice_grid, slice_size
from pipeline.verify.pictures import draw

REFERENCE = MiniCPMV4_6ImageProcessorPil()
RANDOM = random.Random(0)
SIZES = [(1, 1), (448, 448), (449, 448), (448, 4480), (3000, 4000), (4000, 3000), (20, 3999), (896, 448), (1344, 1344)]
SIZES += [(RANDOM.randint(1, 4000), RANDOM.randint(1, 4000)) for _ in range(300)]


@pytest.mark.parametrize(("most", "scale", "mode"), [(9, 448, "16x"), (1, 448, "16x"), (4, 300, "4x"), (36, 448, "4x")])
def test_grids_and_sizes(most: int, scale: int, mode: str) -> None:
    unit = 14 * (2 if mode == "4x" else 4)
    for size in SIZES:
        expected = REFERENCE.get_sliced_grid(size, most, scale)
        grid = slice_grid(*size, most, scale)
        assert grid == tuple(expected or (0, 0)), size
        for enlarge in (False, True):
            whole = REFERENCE.find_best_resize(size, scale, 14, mode, allow_upscale=enlarge)
            assert picture_size(*size, scale, unit, enlarge) == whole, size
        if expected:
            refined = REFERENCE.get_refine_size(size, expected, scale, 14, mode, allow_upscale=True)
            tall, wide = slice_size(*size, grid, scale, unit)
            assert (tall * grid[0], wide * grid[1]) == refined, size


def test_a_picture_that_is_far_too_long_is_refused() -> None:
    facts = {"kind": "slices", "unit": 56, "scale": 448, "slices": 9, "resample": 3}
    with pytest.raises(UserError, match="200 times longer than wide"):
        prepare(draw(1, 201), facts)
    assert prepare(draw(1, 200), facts).pictures[0].size == (6216, 56)


def test_a_size_that_is_asked_for_decides_the_slices() -> None:
    facts = {"kind": "slices", "unit": 56, "scale": 112, "slices": 9, "resample": 3}
    found = prepare(draw(60, 60), facts, (110, 330))
    assert (found.rows, found.columns, len(found.pictures)) == (1, 3, 4)

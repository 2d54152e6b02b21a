"""Sizes that models want their pictures in. Arithmetic only; formulas are those of transformers' image processors."""

from __future__ import annotations

import math

from pipeline.errors import UserError

LARGEST_RATIO = 200


def smart_resize(height: int, width: int, unit: int, min_pixels: int, max_pixels: int) -> tuple[int, int]:
    """(height, width) in multiples of `unit`, with an area between the bounds and nearly the same ratio of sides.

    transformers: qwen2_vl's image processor, `smart_resize`. Raises UserError for a ratio above 200.
    """
    if max(height, width) > LARGEST_RATIO * min(height, width):
        raise UserError(
            f"a picture of {height} x {width} is more than {LARGEST_RATIO} times longer than wide", "cut it"
        )
    tall, wide = round(height / unit) * unit, round(width / unit) * unit
    if tall * wide > max_pixels:
        scale = math.sqrt(height * width / max_pixels)
        return max(unit, math.floor(height / scale / unit) * unit), max(unit, math.floor(width / scale / unit) * unit)
    if tall * wide < min_pixels:
        scale = math.sqrt(min_pixels / (height * width))
        return math.ceil(height * scale / unit) * unit, math.ceil(width * scale / unit) * unit
    return tall, wide


def tile_grid(height: int, width: int, side: int, least: int, most: int) -> tuple[int, int]:
    """(rows, columns) of the tiles whose shape is nearest to the picture's; of equals the larger if it is filled.

    transformers: got_ocr2's image processor, `get_optimal_tiled_canvas`.
    """
    grids = sorted(
        [(c, r) for c in range(1, most + 1) for r in range(1, most + 1) if least <= c * r <= most],
        key=lambda grid: grid[0] * grid[1],
    )
    ratio, area = width / height, width * height
    best, least_difference = (1, 1), math.inf
    for columns, rows in grids:
        difference = abs(ratio - columns / rows)
        if difference < least_difference:
            best, least_difference = (columns, rows), difference
        elif difference == least_difference and area > 0.5 * side * side * columns * rows:
            best = (columns, rows)
    return best[1], best[0]


def longest_edge(height: int, width: int, longest: int) -> tuple[int, int]:
    """(height, width) with the longer side `longest` and the other even.

    transformers: idefics3's image processor, `get_resize_output_image_size`.
    """
    ratio = width / height
    if width >= height:
        tall, wide = int(longest / ratio), longest
        return max(tall + tall % 2, 1), wide
    wide = int(longest * ratio)
    return longest, max(wide + wide % 2, 1)


def whole_tiles(height: int, width: int, side: int) -> tuple[int, int]:
    """(height, width) up to whole tiles of `side`. transformers: idefics3's `resize_for_vision_encoder`."""
    ratio = width / height
    if width >= height:
        wide = math.ceil(width / side) * side
        return math.ceil(int(wide / ratio) / side) * side, wide
    tall = math.ceil(height / side) * side
    return tall, math.ceil(int(tall * ratio) / side) * side

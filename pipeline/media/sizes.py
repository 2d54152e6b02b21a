"""Sizes that models want their pictures in. Arithmetic only; formulas are those of transformers' image processors."""

from __future__ import annotations

import math
from collections.abc import Iterable

from pipeline.errors import UserError

LARGEST_RATIO = 200


def smart_resize(height: int, width: int, unit: int, min_pixels: int, max_pixels: int) -> tuple[int, int]:
    """(height, width) in multiples of `unit`, with an area between the bounds and nearly the same ratio of sides.

    transformers: qwen2_vl's image processor, `smart_resize`. Raises UserError for a ratio above 200.
    """
    check_ratio(height, width)
    rounded = round(height / unit) * unit, round(width / unit) * unit
    return _bounded(height, width, rounded, unit, min_pixels, max_pixels)


def flexible_size(height: int, width: int, unit: int, min_pixels: int, max_pixels: int) -> tuple[int, int]:
    """As smart_resize, but no side is rounded to 0. transformers: lfm2_vl's image processor, `smart_resize`, which
    takes any ratio: of a line of pixels it makes thousands of patches, for whose mask a machine may lack the memory."""
    check_ratio(height, width)
    rounded = max(unit, round(height / unit) * unit), max(unit, round(width / unit) * unit)
    return _bounded(height, width, rounded, unit, min_pixels, max_pixels)


def is_large(height: int, width: int, unit: int, most_pixels: float) -> bool:
    """Whether a picture is cut into tiles. transformers: lfm2_vl's image processor, `_is_image_too_large`."""
    tall, wide = (max(unit // 2, round(side / unit) * unit) for side in (height, width))  # at least one patch
    return tall * wide > most_pixels


def check_ratio(height: int, width: int) -> None:
    """Raises UserError for a ratio above 200."""
    if max(height, width) > LARGEST_RATIO * min(height, width):
        raise UserError(
            f"a picture of {height} x {width} is more than {LARGEST_RATIO} times longer than wide", "cut it"
        )


def _bounded(
    height: int, width: int, rounded: tuple[int, int], unit: int, min_pixels: int, max_pixels: int
) -> tuple[int, int]:
    if math.prod(rounded) > max_pixels:
        scale = math.sqrt(height * width / max_pixels)
        return max(unit, math.floor(height / scale / unit) * unit), max(unit, math.floor(width / scale / unit) * unit)
    if math.prod(rounded) < min_pixels:
        scale = math.sqrt(min_pixels / (height * width))
        return math.ceil(height * scale / unit) * unit, math.ceil(width * scale / unit) * unit
    return rounded


def tile_grid(height: int, width: int, side: int, least: int, most: int) -> tuple[int, int]:
    """(rows, columns) of the tiles whose shape is nearest to the picture's; of equals the larger if it is filled.

    transformers: got_ocr2's image processor, `get_optimal_tiled_canvas`.
    """
    grids = [(c, r) for c in range(1, most + 1) for r in range(1, most + 1) if least <= c * r <= most]
    return _nearest_grid(height, width, side, grids)


def flexible_grid(height: int, width: int, side: int, least: int, most: int) -> tuple[int, int]:
    """As tile_grid, of equally many tiles in the order of transformers: lfm2_vl's image processor, `_target_ratios`,
    which sorts a set."""
    counts = range(least, most + 1)
    grids = [(c, r) for n in counts for c in range(1, n + 1) for r in range(1, n + 1) if least <= c * r <= most]
    return _nearest_grid(height, width, side, set(grids))


def _nearest_grid(height: int, width: int, side: int, candidates: Iterable[tuple[int, int]]) -> tuple[int, int]:
    grids = sorted(candidates, key=math.prod)
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

"""MiniCPM-V's pictures: the whole at one resolution, and slices of it at a higher one.

Formulas and layout are those of transformers' minicpmv4_6: its image processor and its processor.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any


def slice_grid(height: int, width: int, most: int, scale: int) -> tuple[int, int]:
    """(rows, columns) of the slices of a picture; (0, 0) for one that is not cut.

    scale: the side of the square whose area a slice has. transformers: `get_sliced_grid`.
    """
    ideal = min(math.ceil(width * height / (scale * scale)), most)
    if ideal <= 1:
        return 0, 0
    ratio = math.log(width / height)
    best, least = (1, 1), math.inf
    for count in (ideal - 1, ideal, ideal + 1):
        for rows in range(1, count + 1 if 1 < count <= most else 1):
            error = abs(ratio - math.log(count // rows / rows))
            if count % rows == 0 and (error < least or (error == least and rows > best[0])):
                best, least = (rows, count // rows), error
    return best


def picture_size(height: float, width: float, scale: int, unit: int, enlarge: bool) -> tuple[int, int]:
    """(height, width) in multiples of `unit`, of scale² pixels: of all pictures if `enlarge`, or else of larger ones.

    transformers: `find_best_resize`.
    """
    if enlarge or height * width > scale * scale:
        ratio = width / height
        height = int(scale / math.sqrt(ratio))
        width = int(height * ratio)
    return _multiple(height, unit), _multiple(width, unit)


def slice_size(height: int, width: int, grid: tuple[int, int], scale: int, unit: int) -> tuple[int, int]:
    """(height, width) of one slice. transformers: `get_refine_size`."""
    rows, columns = grid
    return picture_size(_multiple(height, rows) / rows, _multiple(width, columns) / columns, scale, unit, True)


def _multiple(length: float, unit: int) -> int:
    return max(round(length / unit) * unit, unit)


def written(number: int, sizes: Sequence[tuple[int, int]], columns: int, facts: Mapping[str, Any]) -> str:
    """The text that stands for a prompt's picture of this number, counted from 0.

    sizes: (height, width) in pixels of the whole and of its slices. transformers: `replace_image_token` of the
    processor.
    """
    words = facts["words"]
    whole, *slices = [words["image"] * (height * width // int(facts["unit"]) ** 2) for height, width in sizes]
    head = f"{words['number_start']}{number}{words['number_end']}" if facts["numbered"] else ""
    cut = [f"{words['slice_start']}{places}{words['slice_end']}" for places in slices]
    lines = ["".join(cut[first : first + columns]) for first in range(0, len(cut), columns or 1)]
    return f"{head}{words['start']}{whole}{words['end']}" + "\n".join(lines)

"""From a picture to what the engine must be given so that the encoder sees the model's own pixels.

The engine resizes bilinearly without antialias; transformers' processors do not. A picture that already has the size
which `<hw>` names passes through the engine's resize unchanged, so the resizing is done here as transformers does it:
by PIL, or as torch does where a family's processor has no other way (`antialias.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.errors import UserError
from pipeline.media.antialias import resize
from pipeline.media.sizes import (
    check_ratio,
    flexible_grid,
    flexible_size,
    is_large,
    longest_edge,
    smart_resize,
    tile_grid,
    whole_tiles,
)
from pipeline.media.slices import picture_size, slice_grid, slice_size

if TYPE_CHECKING:
    from PIL.Image import Image

LARGEST_SIDE = 8192  # what a person may ask for by <hw>


@dataclass(frozen=True)
class Prepared:
    """Pictures for the engine, in order; most families take one. rows, columns: of tiles, 0 for a whole picture."""

    pictures: tuple[Image, ...]
    rows: int = 0
    columns: int = 0


def prepare(picture: Image, facts: Mapping[str, Any], size: tuple[int, int] | None = None) -> Prepared:
    """facts: the product's visual.json. size: (height, width) that a person asked for, in place of the model's choice.

    Raises UserError for a size that no picture can have.
    """
    if size is not None and not all(0 < side <= LARGEST_SIDE for side in size):
        raise UserError(f"<hw>{size[0]}, {size[1]}</hw> is no size of a picture", f"give 1 to {LARGEST_SIDE} pixels")
    return _KINDS[facts["kind"]](picture, facts, size)


def _smart(picture: Image, facts: Mapping[str, Any], size: tuple[int, int] | None) -> Prepared:
    height, width = size or (picture.height, picture.width)
    bounds = int(facts["min_pixels"]), int(facts["max_pixels"])
    height, width = smart_resize(height, width, int(facts["unit"]), *bounds)
    return Prepared((_resized(picture, height, width, facts),))


def _tiles(picture: Image, facts: Mapping[str, Any], size: tuple[int, int] | None) -> Prepared:
    """Tiles row by row, then the whole picture as one tile; only that if it is not to be split."""
    side = int(facts["side"])
    longest = max(size) if size else int(facts["longest_edge"])
    first = longest_edge(picture.height, picture.width, min(longest, int(facts["longest_edge"])))
    picture = _resized(picture, *first, facts)  # twice, as transformers does
    tall, wide = whole_tiles(*first, side) if facts["split"] else (side, side)
    large = _resized(picture, tall, wide, facts)
    if (tall, wide) == (side, side):
        return Prepared((large,))
    rows, columns = tall // side, wide // side
    tiles = [_cut(large, side, row, column) for row in range(rows) for column in range(columns)]
    return Prepared((*tiles, _resized(large, side, side, facts)), rows, columns)


def _stacked(picture: Image, facts: Mapping[str, Any], size: tuple[int, int] | None) -> Prepared:
    """One picture of all tiles, one above the other, the whole picture last."""
    from PIL import Image

    side = int(facts["side"])
    height, width = size or (picture.height, picture.width)
    rows, columns = (1, 1)
    if facts["split"]:
        rows, columns = tile_grid(height, width, side, int(facts["min_tiles"]), int(facts["max_tiles"]))
    whole = _resized(picture, side, side, facts)
    if rows * columns == 1:
        return Prepared((whole,))
    large = _resized(picture, rows * side, columns * side, facts)
    tiles = [_cut(large, side, row, column) for row in range(rows) for column in range(columns)]
    stack = Image.new("RGB", (side, side * (len(tiles) + 1)))
    for number, tile in enumerate([*tiles, whole]):
        stack.paste(tile, (0, number * side))
    return Prepared((stack,))


def _flexible(picture: Image, facts: Mapping[str, Any], size: tuple[int, int] | None) -> Prepared:
    """One picture of nearly its own shape; of a large one tiles row by row, then the whole as thumbnail."""
    height, width = size or (picture.height, picture.width)
    bounds = int(facts["min_pixels"]), int(facts["max_pixels"])
    whole = resize(picture, *flexible_size(height, width, int(facts["unit"]), *bounds))
    if not facts["split"] or not is_large(height, width, int(facts["unit"]), bounds[1] * float(facts["tolerance"])):
        return Prepared((whole,))
    side = int(facts["side"])
    rows, columns = flexible_grid(height, width, side, int(facts["min_tiles"]), int(facts["max_tiles"]))
    large = resize(picture, rows * side, columns * side)
    tiles = [_cut(large, side, row, column) for row in range(rows) for column in range(columns)]
    return Prepared((*tiles, *([whole] if facts["thumbnail"] else [])), rows, columns)


def _square(picture: Image, facts: Mapping[str, Any], size: tuple[int, int] | None) -> Prepared:
    """One size for every picture, whatever its shape and whatever was asked for."""
    return Prepared((_resized(picture, int(facts["side"]), int(facts["side"]), facts),))


def _slices(picture: Image, facts: Mapping[str, Any], size: tuple[int, int] | None) -> Prepared:
    """The whole picture, then its slices row by row; only the whole if it is small."""
    height, width = size or (picture.height, picture.width)
    check_ratio(height, width)
    scale, unit = int(facts["scale"]), int(facts["unit"])
    rows, columns = slice_grid(height, width, int(facts["slices"]), scale)
    whole = _resized(picture, *picture_size(height, width, scale, unit, enlarge=not rows), facts)
    if not rows:
        return Prepared((whole,))
    tall, wide = slice_size(height, width, (rows, columns), scale, unit)
    large = _resized(picture, rows * tall, columns * wide, facts)
    boxes = [(wide * column, tall * row) for row in range(rows) for column in range(columns)]
    slices = [large.crop((left, top, left + wide, top + tall)) for left, top in boxes]
    return Prepared((whole, *slices), rows, columns)


def _cut(picture: Image, side: int, row: int, column: int) -> Image:
    return picture.crop((column * side, row * side, (column + 1) * side, (row + 1) * side))


def _resized(picture: Image, height: int, width: int, facts: Mapping[str, Any]) -> Image:
    from PIL import Image

    if picture.size == (width, height):
        return picture
    return picture.resize((width, height), Image.Resampling(int(facts["resample"])))


_KINDS = {
    "flexible": _flexible,
    "slices": _slices,
    "smart_resize": _smart,
    "square": _square,
    "stacked_tiles": _stacked,
    "tiles": _tiles,
}

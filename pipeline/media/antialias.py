"""Bilinear resizing with antialias of 8-bit pixels, as torch does it: the same numbers to the last bit.

PIL's differs by one in some pixels, because it keeps its weights in 22 bits and torch in 15. transformers' processor of
LFM2-VL resizes by torch only. Source: torch, `interpolate` of uint8 on CPUs (UpSampleKernelAVXAntialias.h): first along
rows, then along columns, each rounded to 8 bits; weights as integers of as many bits as the largest allows in 16.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from PIL.Image import Image

BITS = 22  # of a weight, at most
LARGEST = 1 << 15
ROWS = 256  # taken at a time: 32-bit sums of a large picture are four times its size


def resize(picture: Image, height: int, width: int) -> Image:
    """The RGB picture in another size."""
    from PIL import Image

    if picture.size == (width, height):
        return picture
    pixels = np.asarray(picture)
    pieces = [_along_columns(pixels[row : row + ROWS], width) for row in range(0, len(pixels), ROWS)]
    wide = np.concatenate(pieces).swapaxes(0, 1)
    pieces = [_along_columns(wide[row : row + ROWS], height) for row in range(0, len(wide), ROWS)]
    return Image.fromarray(np.ascontiguousarray(np.concatenate(pieces).swapaxes(0, 1)))


def _along_columns(pixels: npt.NDArray[np.uint8], size: int) -> npt.NDArray[np.uint8]:
    """uint8 [n, old, 3] → [n, size, 3]."""
    if pixels.shape[1] == size:
        return pixels
    first, taps, bits = weights(pixels.shape[1], size)
    total = np.full((pixels.shape[0], size, pixels.shape[2]), 1 << (bits - 1), np.int32)
    for tap in range(taps.shape[1]):
        column = np.minimum(first + tap, pixels.shape[1] - 1)  # beyond the end the weight is 0
        total += pixels[:, column].astype(np.int32) * taps[None, :, tap, None]
    rounded: npt.NDArray[np.uint8] = np.clip(total >> bits, 0, 255).astype(np.uint8)
    return rounded


def weights(old: int, new: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32], int]:
    """(first pixel int64 [new], weights int32 [new, taps], their number of bits) of `new` pixels made of `old`."""
    step = old / new
    support = max(step, 1.0)
    centre = step * (np.arange(new) + 0.5)
    first = np.maximum((centre - support + 0.5).astype(np.int64), 0)
    end = np.minimum((centre + support + 0.5).astype(np.int64), old)
    taps = np.arange(int((end - first).max()))[None, :]
    distance = np.abs(taps + first[:, None] - centre[:, None] + 0.5) / support
    triangle = np.where(taps < (end - first)[:, None], np.maximum(1.0 - distance, 0.0), 0.0)
    share = triangle / triangle.sum(1, keepdims=True)
    fitting = [bits for bits in range(BITS) if int(0.5 + share.max() * (1 << (bits + 1))) >= LARGEST]
    bits = fitting[0] if fitting else BITS
    return first, (share * (1 << bits) + 0.5).astype(np.int32), bits

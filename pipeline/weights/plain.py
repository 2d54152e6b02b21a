"""The loops of the weight pass in numpy: what `kernels.py` does, without a compiler."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.weights.precision import Precision

F32 = NDArray[np.float32]
U8 = NDArray[np.uint8]


@dataclass(frozen=True)
class Packed:
    """codes: uint8 bytes as in the file; alpha: stored scales (and zeros); the sums are over the rows given."""

    codes: U8
    alpha: NDArray[np.floating]
    squared_error: float
    squared_norm: float


class Loops(Protocol):
    """The module `plain` or the module `kernels`: the same values from both, to the last bit but for `measure`'s."""

    def extremes(self, blocks: F32, low: F32, high: F32) -> None:
        """Least and greatest value of each row of `blocks` [n, block] into low [n] and high [n]."""

    def encode(
        self, blocks: F32, scale: F32, zero: F32, least: np.float32, most: np.float32, half: np.float32, codes: U8
    ) -> None:
        """Nearest code of every weight on its block's grid, where w = (code - half) * scale + zero.

        blocks [n, block]; scale, zero [n] as they will be read back from storage; least, most: the range of
        code - half; codes [n, block] as unsigned bytes. A block with scale 0 gets the code `half`.
        """

    def measure(
        self, blocks: F32, scale: F32, zero: F32, half: np.float32, codes: U8, sums: NDArray[np.float64]
    ) -> None:
        """Add the squared error of `codes` and the squared weights to sums [2]; not finite if a weight is not.

        Blocks are summed in float32 or better, and the sums of blocks in float64. The order of additions within a block
        depends on the CPU's vector width: whoever writes the sums down prints few digits.
        """

    def nearest(self, rows: NDArray[Any], precision: Precision) -> Packed | None:
        """Round to nearest in one pass from `rows` [n, in] to the stored bytes; None where there is no such pass."""


def extremes(blocks: F32, low: F32, high: F32) -> None:
    """See Loops."""
    np.minimum.reduce(blocks, 1, out=low)
    np.maximum.reduce(blocks, 1, out=high)


def encode(
    blocks: F32, scale: F32, zero: F32, least: np.float32, most: np.float32, half: np.float32, codes: U8
) -> None:
    """See Loops."""
    divisor = np.where(scale > 0, scale, np.float32(np.inf))[:, None]
    with np.errstate(all="ignore"):
        steps = blocks - zero[:, None]
        np.divide(steps, divisor, out=steps)
        np.rint(steps, out=steps)
        np.minimum(np.maximum(steps, least, out=steps), most, out=steps)
        steps += half
        np.copyto(codes, steps, casting="unsafe")


def measure(
    blocks: F32, scale: F32, zero: F32, half: np.float32, codes: U8, sums: NDArray[np.float64]
) -> None:
    """See Loops."""
    miss = codes.astype(np.float32)
    with np.errstate(all="ignore"):
        miss -= half
        miss *= scale[:, None]
        miss += zero[:, None]
        np.subtract(blocks, miss, out=miss)
        sums[0] += np.einsum("ij,ij->", miss, miss, dtype=np.float64)
        sums[1] += np.einsum("ij,ij->", blocks, blocks, dtype=np.float64)


def nearest(rows: NDArray[Any], precision: Precision) -> Packed | None:
    """See Loops: numpy has no such pass."""
    return None

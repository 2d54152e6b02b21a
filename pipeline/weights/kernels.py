"""The compiled loops of the weight pass. Everything around them is numpy on whole arrays.

They release the interpreter's lock, so Python threads run them side by side; none starts threads of its own, which
keeps the output the same bytes on any number of threads and the first, uncached call short (numba's parallel mode
costs a further second). Compiled code is cached beside this file.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.weights.compiled import compiled
from pipeline.weights.fused import nearest

__all__ = ["encode", "extremes", "measure", "nearest"]

F32 = NDArray[np.float32]
U8 = NDArray[np.uint8]
F64 = NDArray[np.float64]


@compiled("void(float32[:, ::1], float32[::1], float32[::1])", fastmath={"nnan", "nsz"})
def extremes(blocks: F32, low: F32, high: F32) -> None:
    """See plain.Loops."""
    for b in range(blocks.shape[0]):
        row = blocks[b]
        least = row[0]
        most = row[0]
        for i in range(row.size):
            least = min(least, row[i])
            most = max(most, row[i])
        low[b] = least
        high[b] = most


@compiled("void(float32[:, ::1], float32[::1], float32[::1], float32, float32, float32, uint8[:, ::1])")
def encode(blocks: F32, scale: F32, zero: F32, least: Any, most: Any, half: Any, codes: U8) -> None:
    """See plain.Loops."""
    for b in range(blocks.shape[0]):
        row = blocks[b]
        code = codes[b]
        origin = zero[b]
        divisor = scale[b] if scale[b] > np.float32(0) else np.float32(np.inf)
        for i in range(row.size):
            code[i] = np.uint8(np.int32(min(max(np.rint((row[i] - origin) / divisor), least), most) + half))


@compiled(
    "void(float32[:, ::1], float32[::1], float32[::1], float32, uint8[:, ::1], float64[::1])", fastmath={"reassoc"}
)
def measure(blocks: F32, scale: F32, zero: F32, half: Any, codes: U8, sums: F64) -> None:
    """See plain.Loops."""
    for b in range(blocks.shape[0]):
        row = blocks[b]
        code = codes[b]
        step = scale[b]
        origin = zero[b]
        error = np.float32(0)
        norm = np.float32(0)
        for i in range(row.size):
            miss = row[i] - ((np.float32(code[i]) - half) * step + origin)
            error += miss * miss
            norm += row[i] * row[i]
        sums[0] += error
        sums[1] += norm

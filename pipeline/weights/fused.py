"""Round to nearest from bfloat16 to packed codes in one compiled pass: no float32 copy of the weights in memory.

The same bytes as rtn.py, quantiser.py and packing.py give (tests/weights/test_fused.py holds it to them). TILE weights
at a time go through all loops while they lie in a core's first cache; each loop is plain enough for the compiler to
make vectors of it, and the interpreter's lock is released for a whole row block instead of for each step.
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from pipeline.weights.compiled import compiled
from pipeline.weights.plain import Packed
from pipeline.weights.precision import Precision

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
U8 = NDArray[np.uint8]
I16 = NDArray[np.int16]
U16 = NDArray[np.uint16]
U32 = NDArray[np.uint32]

BITS = (4, 8)
TILE = 2048
INTEGERS = np.float32(3 << 22)
"""Added to a number below 2^22 it leaves its nearest integer (half to even) in the low bits of the float32."""
HALF_STEP = np.float32(0.5)
"""Likewise, float32 numbers from 0.5 are 2^-24 apart or more, and float16's below 2^-14 are 2^-24 apart."""


def fits(weights: NDArray[Any], precision: Precision) -> bool:
    """Whether `weights` can take this pass: bfloat16 to 4 or 8 bits, scales of 16, nearest codes, an even block."""
    known = precision.algorithm == "rtn" and precision.bits in BITS and precision.scale_bits == 16
    return known and weights.dtype == ml_dtypes.bfloat16 and precision.block % 2 == 0


def nearest(rows: NDArray[Any], precision: Precision) -> Packed | None:
    """See plain.Loops. An infinite or missing weight makes squared_norm so."""
    if not fits(rows, precision):
        return None
    blocks = np.ascontiguousarray(rows).view(np.uint16).reshape(-1, precision.block)
    codes = np.empty((len(blocks), precision.block * precision.bits // 8), np.uint8)
    alpha = np.empty((len(blocks), 1 if precision.symmetric else 2), np.float16)
    sums = np.zeros(2)
    steps = precision.most if precision.symmetric else precision.steps
    least, most, half, ends = map(np.float32, (precision.least, precision.most, precision.half, steps))
    _quantise(blocks, least, most, half, ends, codes, alpha.view(np.uint16), sums)
    return Packed(codes.reshape(-1), alpha[:, 0] if precision.symmetric else alpha, float(sums[0]), float(sums[1]))


@compiled("float32(float32)")
def _half(value: Any) -> Any:
    """`value` rounded to float16, half to even, as float32."""
    size = abs(value)
    if size < np.float32(2**-14):
        rounded = (size + HALF_STEP) - HALF_STEP
    elif size < np.float32(65520):
        bits = np.float32(size).view(np.uint32)
        odd = (bits >> np.uint32(13)) & np.uint32(1)
        rounded = np.uint32((bits + odd + np.uint32(0xFFF)) & np.uint32(0xFFFFE000)).view(np.float32)
    else:
        rounded = size * np.float32(np.inf)  # infinite, or not a number
    return np.float32(np.copysign(rounded, value))


@compiled("uint16(float32)")
def _half_bits(value: Any) -> Any:
    """The float16 of a number that float16 holds exactly."""
    bits = np.float32(value).view(np.uint32)
    sign = (bits >> np.uint32(16)) & np.uint32(0x8000)
    size = abs(value)
    if size < np.float32(2**-14):
        return np.uint16(sign | np.uint32(size * np.float32(2**24)))
    if size < np.float32(65520):
        return np.uint16(sign | (((bits & np.uint32(0x7FFFFFFF)) - np.uint32(0x38000000)) >> np.uint32(13)))
    return np.uint16(sign | np.uint32(0x7C00 if size == size else 0x7E00))


@compiled("void(int16[:, ::1], int16[::1], int16[::1])")
def _extremes(rows: I16, low: I16, high: I16) -> None:
    """Least and greatest bfloat16 of each row. Their order is that of integers once negative ones are turned round."""
    for b in range(rows.shape[0]):
        row = rows[b]
        least = np.int16(0x7FFF)
        most = np.int16(-0x8000)
        for i in range(row.size):
            key = np.int16(row[i] ^ ((row[i] >> np.int16(15)) & np.int16(0x7FFF)))
            least = min(least, key)
            most = max(most, key)
        low[b] = least ^ ((least >> np.int16(15)) & np.int16(0x7FFF))
        high[b] = most ^ ((most >> np.int16(15)) & np.int16(0x7FFF))


@compiled("void(uint16[::1], uint32[::1])")
def _widen(short: U16, bits: U32) -> None:
    """The bits of the float32 numbers that the bfloat16 ones are."""
    for i in range(short.size):
        bits[i] = np.uint32(short[i]) << np.uint32(16)


@compiled("void(float32[::1], float32[::1], float32, float32, float32[::1], float32[::1], uint16[:, ::1])")
def _grid(low: F32, high: F32, half: Any, steps: Any, scale: F32, zero: F32, alpha: U16) -> None:
    """rtn.grid of each block, and its stored form: alpha [n, 1] (scale; symmetric) or [n, 2] (zero, scale)."""
    for b in range(low.size):
        if alpha.shape[1] == 1:
            scale[b] = _half((max(-low[b], high[b]) + np.float32(0)) / steps)  # never -0
            zero[b] = np.float32(0)
        else:
            scale[b] = _half((high[b] - low[b]) / steps)
            zero[b] = _half(low[b] + scale[b] * half)
            alpha[b, 0] = _half_bits(zero[b])
        alpha[b, -1] = _half_bits(scale[b])


@compiled("void(float32[:, ::1], float32[::1], float32[::1], float32, float32, float32, float32[:, ::1])")
def _round(values: F32, scale: F32, zero: F32, least: Any, most: Any, shift: Any, steps: F32) -> None:
    """Nearest code + `shift` of every value: its low bits are the code."""
    for b in range(values.shape[0]):
        row = values[b]
        step = steps[b]
        origin = zero[b]
        divisor = scale[b] if scale[b] > np.float32(0) else np.float32(np.inf)
        for i in range(row.size):
            code = (row[i] - origin) / divisor
            code = least if code < least else code
            code = most if code > most else code
            step[i] = code + shift


@compiled(
    "void(float32[:, ::1], float32[:, ::1], float32[::1], float32[::1], float32, float64[::1])", fastmath={"reassoc"}
)
def _measure(values: F32, steps: F32, scale: F32, zero: F32, shift: Any, sums: F64) -> None:
    """See plain.Loops.measure."""
    for b in range(values.shape[0]):
        row = values[b]
        step = steps[b]
        slope = scale[b]
        origin = zero[b]
        error = np.float32(0)
        norm = np.float32(0)
        for i in range(row.size):
            miss = row[i] - ((step[i] - shift) * slope + origin)
            error += miss * miss
            norm += row[i] * row[i]
        sums[0] += error
        sums[1] += norm


@compiled("void(uint32[::1], uint8[::1])")
def _bytes(bits: U32, codes: U8) -> None:
    """The lowest byte of each."""
    for i in range(codes.size):
        codes[i] = np.uint8(bits[i])


@compiled("void(uint16[::1], uint8[::1])")
def _nibbles(pairs: U16, packed: U8) -> None:
    """Two codes a byte, the first one in the upper half; see packing."""
    for i in range(packed.size):
        packed[i] = np.uint8((pairs[i] << np.uint16(4)) | (pairs[i] >> np.uint16(8)))


@compiled(
    "void(uint16[:, ::1], float32, float32, float32, float32, uint8[:, ::1], uint16[:, ::1], float64[::1])"
)
def _quantise(blocks: U16, least: Any, most: Any, half: Any, steps: Any, packed: U8, alpha: U16, sums: F64) -> None:
    """blocks [n, block] to packed [n, bytes] and alpha [n, 1] or [n, 2], a tile after the other."""
    count, block = blocks.shape
    tile = max(1, TILE // block)
    ends = np.empty((2, tile), np.int16)
    grid = np.empty((4, tile), np.float32)
    bits = np.empty((2, tile, block), np.uint32)
    codes = np.empty(tile * block, np.uint8)
    floats = bits.view(np.float32)
    shift = INTEGERS + half
    for first in range(0, count, tile):
        n = min(tile, count - first)
        rows = blocks[first : first + n]
        low, high, scale, zero = grid[0, :n], grid[1, :n], grid[2, :n], grid[3, :n]
        values, rounded = floats[0, :n], floats[1, :n]
        _extremes(rows.view(np.int16), ends[0, :n], ends[1, :n])
        _widen(ends[0, :n].view(np.uint16), low.view(np.uint32))
        _widen(ends[1, :n].view(np.uint16), high.view(np.uint32))
        _widen(rows.reshape(n * block), bits[0, :n].reshape(n * block))
        _grid(low, high, half, steps, scale, zero, alpha[first : first + n])
        _round(values, scale, zero, least, most, shift, rounded)
        _measure(values, rounded, scale, zero, shift, sums)
        out = packed[first : first + n].reshape(n * packed.shape[1])
        if packed.shape[1] == block:
            _bytes(bits[1, :n].reshape(n * block), out)
        else:
            _bytes(bits[1, :n].reshape(n * block), codes[: n * block])
            _nibbles(codes[: n * block].view(np.uint16), out)

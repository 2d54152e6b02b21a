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
    block = precision.block
    short = np.ascontiguousarray(rows).view(np.uint16).reshape(-1)
    codes = np.empty(short.size * precision.bits // 8, np.uint8)
    alpha = np.empty((short.size // block, 1 if precision.symmetric else 2), np.float16)
    sums = np.zeros(2)
    tile = max(1, min(TILE // block, len(alpha)))
    least, most, half = map(np.float32, (precision.least, precision.most, precision.half))
    steps = np.float32(precision.most if precision.symmetric else precision.steps)
    bits, rounded = np.empty(tile * block, np.uint32), np.empty(tile * block, np.uint32)
    misses = np.empty(tile * block, np.float32)
    ends, grid, pairs = np.empty(2 * tile, np.uint32), np.empty(2 * tile, np.float32), np.empty(tile * block, np.uint8)
    _quantise(
        short, short.view(np.int16), block, tile, least, most, half, steps, bits, bits.view(np.float32), rounded,
        rounded.view(np.float32), ends, ends.view(np.float32), grid, misses, pairs, pairs.view(np.uint16), codes,
        alpha.view(np.uint16).reshape(-1), sums,
    )  # fmt: skip
    return Packed(codes, alpha[:, 0] if precision.symmetric else alpha, float(sums[0]), float(sums[1]))


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


@compiled("void(int16[::1], int64, int64, int64, uint32[::1])")
def _extremes(short: I16, first: int, count: int, block: int, ends: U32) -> None:
    """Bits of the least and the greatest number of each of `count` blocks from `first` on, into ends [2 count].

    bfloat16 numbers are in the order of integers once negative ones are turned round.
    """
    for b in range(count):
        row = short[(first + b) * block : (first + b + 1) * block]
        least = np.int16(0x7FFF)
        most = np.int16(-0x8000)
        for i in range(row.size):
            key = np.int16(row[i] ^ ((row[i] >> np.int16(15)) & np.int16(0x7FFF)))
            least = min(least, key)
            most = max(most, key)
        low = np.uint32(np.uint16(least ^ ((least >> np.int16(15)) & np.int16(0x7FFF))))
        high = np.uint32(np.uint16(most ^ ((most >> np.int16(15)) & np.int16(0x7FFF))))
        ends[2 * b] = low << np.uint32(16)
        ends[2 * b + 1] = high << np.uint32(16)


@compiled("void(uint16[::1], int64, int64, uint32[::1])")
def _widen(short: U16, start: int, count: int, bits: U32) -> None:
    """The bits of the float32 numbers that `count` bfloat16 ones from `start` on are."""
    row = short[start : start + count]
    for i in range(row.size):
        bits[i] = np.uint32(row[i]) << np.uint32(16)


@compiled("void(float32[::1], int64, int64, float32, float32, float32[::1], boolean, uint16[::1])")
def _grid(ends: F32, first: int, count: int, half: Any, steps: Any, grid: F32, symmetric: bool, alpha: U16) -> None:
    """rtn.grid of each block into grid [2 count] (scale, zero), and its stored form into `alpha`."""
    for b in range(count):
        low = ends[2 * b]
        high = ends[2 * b + 1]
        if symmetric:
            scale = _half((max(-low, high) + np.float32(0)) / steps)  # never -0
            zero = np.float32(0)
            alpha[first + b] = _half_bits(scale)
        else:
            scale = _half((high - low) / steps)
            zero = _half(low + scale * half)
            alpha[2 * (first + b)] = _half_bits(zero)
            alpha[2 * (first + b) + 1] = _half_bits(scale)
        grid[2 * b] = scale
        grid[2 * b + 1] = zero


@compiled(
    "void(float32[::1], int64, int64, float32[::1], float32, float32, float32, float32[::1], float32[::1])"
)
def _round(
    values: F32, count: int, block: int, grid: F32, least: Any, most: Any, shift: Any, rounded: F32, misses: F32
) -> None:
    """Nearest code + `shift` of every value, whose low bits are the code, and what the code misses of the value."""
    for b in range(count):
        row = values[b * block : (b + 1) * block]
        out = rounded[b * block : (b + 1) * block]
        miss = misses[b * block : (b + 1) * block]
        scale = grid[2 * b]
        zero = grid[2 * b + 1]
        divisor = scale if scale > np.float32(0) else np.float32(np.inf)
        for i in range(row.size):
            code = (row[i] - zero) / divisor
            code = least if code < least else code
            code = most if code > most else code
            whole = code + shift
            out[i] = whole
            miss[i] = row[i] - ((whole - shift) * scale + zero)


@compiled("float64(float32[::1], int64)", fastmath={"reassoc"})
def _squares(values: F32, count: int) -> Any:
    """The sum of the first `count` squares, in float32: a tile at a time, not a block, which would be too short to be
    worth a vector's sum. See plain.Loops.measure."""
    total = np.float32(0)
    for i in range(count):
        total += values[i] * values[i]
    return np.float64(total)


@compiled("void(uint32[::1], int64, uint8[::1], int64)")
def _bytes(bits: U32, count: int, codes: U8, start: int) -> None:
    """The lowest byte of each of `count`, to codes from `start` on."""
    out = codes[start : start + count]
    for i in range(out.size):
        out[i] = np.uint8(bits[i])


@compiled("void(uint16[::1], int64, uint8[::1], int64)")
def _nibbles(pairs: U16, count: int, codes: U8, start: int) -> None:
    """Two codes a byte, the first one in the upper half; see packing."""
    out = codes[start : start + count]
    for i in range(out.size):
        out[i] = np.uint8((pairs[i] << np.uint16(4)) | (pairs[i] >> np.uint16(8)))


@compiled(
    "void(uint16[::1], int16[::1], int64, int64, float32, float32, float32, float32, uint32[::1], float32[::1],"
    "uint32[::1], float32[::1], uint32[::1], float32[::1], float32[::1], float32[::1], uint8[::1], uint16[::1],"
    "uint8[::1], uint16[::1], float64[::1])"
)
def _quantise(
    short: U16, signed: I16, block: int, tile: int, least: Any, most: Any, half: Any, steps: Any, bits: U32,
    values: F32, rounded_bits: U32, rounded: F32, ends_bits: U32, ends: F32, grid: F32, misses: F32, bytes_: U8,
    pairs: U16, codes: U8, alpha: U16, sums: F64,
) -> None:  # fmt: skip
    """All blocks of `short` to `codes` and `alpha`, a tile after the other; the rest is room for one tile.

    Arrays come in twice where they are read as two types, and helpers get numbers, not slices: views and slices made
    here cost seconds of compilation.
    """
    shift = INTEGERS + half
    total = short.size // block
    symmetric = alpha.size == total
    whole = codes.size == short.size
    for first in range(0, total, tile):
        count = min(tile, total - first)
        size = count * block
        _extremes(signed, first, count, block, ends_bits)
        _grid(ends, first, count, half, steps, grid, symmetric, alpha)
        _widen(short, first * block, size, bits)
        _round(values, count, block, grid, least, most, shift, rounded, misses)
        sums[0] += _squares(misses, size)
        sums[1] += _squares(values, size)
        if whole:
            _bytes(rounded_bits, size, codes, first * block)
        else:
            _bytes(rounded_bits, size, bytes_, 0)
            _nibbles(pairs, size // 2, codes, first * block // 2)

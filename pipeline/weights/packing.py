"""Bytes of a quantised matrix as the engine reads them (MNN 3.6.1, ConvolutionCommon.cpp, IDSTDecoder).

header: u8 2, out and in as u16 (u32 if either is above 65,535), u8 2^bits (0 for 256), the signed codes as int8 list.
codes:  unsigned code + half, row by row, most significant bit first, one stream without padding between rows.
alpha:  per block, row by row: zero and scale (asymmetric) or scale (symmetric), float16 or float32.
"""

from __future__ import annotations

import struct

import numpy as np
from numpy.typing import NDArray

from pipeline.weights.halves import halves
from pipeline.weights.precision import FP16, Precision
from pipeline.weights.sizes import code_bytes

U16_MAX = 0xFFFF


def is_int32(out_features: int, in_features: int) -> bool:
    """Whether the header's shape needs 32-bit numbers."""
    return max(out_features, in_features) > U16_MAX


def header(out_features: int, in_features: int, bits: int) -> bytes:
    """The bytes before the codes; none for fp16."""
    if bits == FP16:
        return b""
    shape = "<BII" if is_int32(out_features, in_features) else "<BHH"
    half = 1 << (bits - 1)
    codes = np.arange(-half, half, dtype=np.int8).tobytes()
    return struct.pack(shape, 2, out_features, in_features) + bytes([(2 * half) & 0xFF]) + codes


def pack(codes: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """`codes` [any shape] as a stream [code_bytes]; only the last piece of a matrix may end inside a byte."""
    flat = codes.reshape(-1)
    if bits == 8:
        return flat
    size = code_bytes(flat.size, bits)
    if flat.size % 8:
        flat = np.concatenate((flat, np.zeros(-flat.size % 8, np.uint8)))
    return (_nibbles(flat) if bits == 4 else _stream(flat, bits))[:size]


def _nibbles(codes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Two codes a byte, by pairs as little-endian words (first code low): five times faster than two strided reads."""
    pairs = codes.view("<u2")
    return ((pairs << 4) | (pairs >> 8)).astype(np.uint8)


def _stream(codes: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Eight codes of `bits` bits fill `bits` bytes."""
    groups = codes.reshape(-1, 8)
    words = np.zeros(len(groups), np.uint64)
    for i in range(8):
        words = (words << np.uint64(bits)) | groups[:, i]
    return np.ascontiguousarray(words.astype(">u8").view(np.uint8).reshape(-1, 8)[:, 8 - bits :]).reshape(-1)


def alpha(scale: NDArray[np.float32], zero: NDArray[np.float32], precision: Precision) -> NDArray[np.floating]:
    """The stored form of scale and zero [blocks]: [blocks] symmetric or [blocks, 2] asymmetric."""
    values = scale if precision.symmetric else np.stack((zero, scale), axis=-1)
    return halves(values) if precision.scale_bits == 16 else values

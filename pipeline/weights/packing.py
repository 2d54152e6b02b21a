"""Bytes of a quantised matrix as the engine reads them (MNN 3.6.1, ConvolutionCommon.cpp, IDSTDecoder).

header: see places.py.
codes:  unsigned code + half, row by row, most significant bit first, one stream without padding between rows.
alpha:  per block, row by row: zero and scale (asymmetric) or scale (symmetric), float16 or float32.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.weights.halves import halves
from pipeline.weights.precision import Precision
from pipeline.weights.sizes import code_bytes


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

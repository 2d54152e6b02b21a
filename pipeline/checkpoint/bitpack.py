"""Codes packed into 32-bit words as a little-endian bit stream, as GPTQ and compressed-tensors write them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt


def unpack(words: npt.NDArray[Any], bits: int) -> npt.NDArray[np.uint8]:
    """Codes along the first axis: int32 [words, …] → uint8 [words · 32 / bits, …].

    Code j of a period takes the bits from bits·j on, low bits first, and may cross into the next word (3 bits: 32 codes
    in three words; AutoGPTQ, `QuantLinear.pack`).
    """
    unsigned = np.ascontiguousarray(words).view(np.uint32)
    period_bits = math.lcm(bits, 32)
    period, count = period_bits // 32, period_bits // bits
    grouped = unsigned.reshape(-1, period, *unsigned.shape[1:])
    codes = np.empty((len(grouped), count, *unsigned.shape[1:]), np.uint8)
    mask = np.uint32((1 << bits) - 1)
    for number in range(count):
        word, shift = divmod(bits * number, 32)
        value = grouped[:, word] >> np.uint32(shift)
        if shift + bits > 32:
            value = value | grouped[:, word + 1] << np.uint32(32 - shift)
        codes[:, number] = value & mask
    return codes.reshape(-1, *unsigned.shape[1:])

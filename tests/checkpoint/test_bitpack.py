"""Unpacking against a packer that works bit by bit, and against AutoGPTQ's published 3-bit loop."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.checkpoint.bitpack import unpack
from tests.checkpoint.quantised_files import bit_stream


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_round_trip(bits: int) -> None:
    codes = np.random.default_rng(bits).integers(0, 1 << bits, (96, 5))
    np.testing.assert_array_equal(unpack(bit_stream(codes, bits), bits), codes)


def test_three_bits_as_autogptq_packs_them() -> None:
    """32 codes in three words: ten, a torn one, ten, a torn one, ten (QuantLinear.pack of AutoGPTQ)."""
    codes = np.random.default_rng(9).integers(0, 8, 32).astype(np.uint32)
    words = np.zeros(3, np.uint32)
    for j in range(10):
        words[0] |= codes[j] << np.uint32(3 * j)
        words[1] |= codes[11 + j] << np.uint32(3 * j + 1)
        words[2] |= codes[22 + j] << np.uint32(3 * j + 2)
    words[0] |= (codes[10] << np.uint32(30)) & np.uint32(0xFFFFFFFF)
    words[1] |= (codes[10] >> np.uint32(2)) & np.uint32(1)
    words[1] |= (codes[21] << np.uint32(31)) & np.uint32(0xFFFFFFFF)
    words[2] |= (codes[21] >> np.uint32(1)) & np.uint32(3)
    np.testing.assert_array_equal(unpack(words.view(np.int32), 3), codes)

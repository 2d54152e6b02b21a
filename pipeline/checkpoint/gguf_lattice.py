"""GGUF's block types that are regular lattices, so that the engine can hold their codes and scales as they are.

Blocks of 32 (ggml: block_q4_0, …). Q4_0: float16 d, 16 bytes, w = d·(u − 8). Q4_1: float16 d and
m, 16 bytes, w = d·u + m. Both keep values 0–15 in the low nibbles and 16–31 in the high ones. Q5_0 and Q5_1: as these,
with a fifth bit of each value in four bytes before the nibbles, and u − 16. Q8_0: float16 d, int8 codes, w = d·q.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.checkpoint.gguf_tensor import PIECE, GgufTensor
from pipeline.checkpoint.tensor import Array

F32 = npt.NDArray[np.float32]
U8 = npt.NDArray[np.uint8]
BLOCK = 32
# Block type → (bytes of scale and minimum, bits, whether every zero is 0)
LATTICES = {
    "Q4_0": (2, 4, True),
    "Q4_1": (4, 4, False),
    "Q5_0": (2, 5, True),
    "Q5_1": (4, 5, False),
    "Q8_0": (2, 8, True),
}


@dataclass(frozen=True)
class GgufLattice(GgufTensor):
    """A matrix [out, in] of one of the types above, as a QuantisedTensor."""

    @property
    def block(self) -> int:
        return BLOCK

    @property
    def bits(self) -> int:
        return LATTICES[self.dtype][1]

    @property
    def symmetric(self) -> bool:
        return LATTICES[self.dtype][2]

    def decode(self, stored: U8) -> Array:
        """The library's formulas over these types, several times faster, and equal to the last bit."""
        result = np.empty((len(stored), self.shape[1]), np.float32)
        step = max(1, PIECE // self.shape[1])
        for first in range(0, len(stored), step):
            piece = stored[first : first + step]
            halves, codes = self._split(piece)
            blocks = result[first : first + step].reshape(len(piece), -1, BLOCK)
            np.subtract(codes, np.float32(1 << (self.bits - 1) if self.symmetric else 0), out=blocks, dtype=np.float32)
            blocks *= halves[:, :, :1]
            if not self.symmetric:
                blocks += halves[:, :, 1:]
        return result

    def read_codes(self, start: int = 0, stop: int | None = None) -> U8:
        """Codes of rows [start, stop), uint8 [rows, in]."""
        _, codes = self._split(self.stored(start, stop))
        return np.ascontiguousarray(codes).reshape(len(codes), self.shape[1])

    def read_scales(self, start: int = 0, stop: int | None = None) -> tuple[F32, F32]:
        """(scales, zeros) of rows [start, stop), float32 [rows, in / 32]; the zero m + 2^(bits−1)·d is rounded once."""
        halves, _ = self._split(self.stored(start, stop))
        scales = np.ascontiguousarray(halves[:, :, 0])
        if self.symmetric:
            return scales, np.zeros_like(scales)
        return scales, np.asarray(halves[:, :, 1] + np.float32(1 << (self.bits - 1)) * scales, np.float32)

    def _split(self, stored: U8) -> tuple[F32, U8]:
        """float32 [rows, blocks, 1 or 2] of what precedes the codes, and unsigned codes [rows, blocks, 32]."""
        head = LATTICES[self.dtype][0]
        blocks = stored.reshape(len(stored), self.shape[1] // BLOCK, -1)
        halves = np.ascontiguousarray(blocks[:, :, :head]).view(np.float16).astype(np.float32)
        packed = blocks[:, :, head:]
        if self.bits == 8:
            return halves, packed ^ np.uint8(128)  # q + 128, in two's complement
        fifth, packed = packed[:, :, : 4 * (self.bits - 4)], packed[:, :, 4 * (self.bits - 4) :]
        codes = np.empty((*packed.shape[:2], BLOCK), np.uint8)
        np.bitwise_and(packed, np.uint8(15), out=codes[:, :, : BLOCK // 2])
        np.right_shift(packed, np.uint8(4), out=codes[:, :, BLOCK // 2 :])
        if fifth.shape[2]:
            codes |= np.unpackbits(np.ascontiguousarray(fifth), axis=2, bitorder="little") << np.uint8(4)
        return halves, codes

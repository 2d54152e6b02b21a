"""Tensors that are stored as codes on a regular lattice: what GPTQ, AWQ and compressed-tensors have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from pipeline.checkpoint.tensor import Array

F32 = npt.NDArray[np.float32]
U8 = npt.NDArray[np.uint8]


class LatticeTensor(ABC):
    """A QuantisedTensor by its codes and scales; `read` dequantises them.

    A matrix [out, in] of w = (u − 2^(bits−1))·scale + zero, one scale and zero for `block` inputs of a row.
    """

    shape: tuple[int, ...]
    dtype: str
    bits: int
    block: int

    @abstractmethod
    def read_codes(self, start: int = 0, stop: int | None = None) -> U8:
        """Codes of rows [start, stop), uint8 [rows, in]."""

    @abstractmethod
    def read_scales(self, start: int = 0, stop: int | None = None) -> tuple[F32, F32]:
        """(scales, zeros) of rows [start, stop), float32 [rows, in / block] each."""

    @cached_property
    def symmetric(self) -> bool:
        """Whether every zero is 0."""
        return not self.read_scales()[1].any()

    def read(self, start: int = 0, stop: int | None = None) -> Array:
        """Rows [start, stop) as float32."""
        codes = self.read_codes(start, stop)
        scales, zeros = self.read_scales(start, stop)
        return dequantise(codes, scales, zeros, self.bits)

    def rows(self, start: int, stop: int | None) -> tuple[int, int]:
        """The slice's ends as plain numbers."""
        first, last, _ = slice(start, stop).indices(self.shape[0])
        return first, max(first, last)


def dequantise(codes: U8, scales: F32, zeros: F32, bits: int) -> F32:
    """float32 [rows, in]. Exact for float16 scales and integer zero points: every step fits 24 bits."""
    block = codes.shape[1] // scales.shape[1]
    blocks = codes.reshape(*scales.shape, block).astype(np.float32) - np.float32(1 << (bits - 1))
    return np.asarray(blocks * scales[..., None] + zeros[..., None], np.float32).reshape(codes.shape)


@dataclass(frozen=True)
class ScatteredTensor:
    """A lattice whose blocks are not runs of inputs (GPTQ's and compressed-tensors' activation order): no lattice that
    the engine could hold, so it has values only. groups: int [in], each input's place among the scales."""

    codes: LatticeTensor
    groups: npt.NDArray[np.int64]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.codes.shape

    @property
    def dtype(self) -> str:
        return f"{self.codes.dtype}_ACT_ORDER"

    def read(self, start: int = 0, stop: int | None = None) -> Array:
        """Rows [start, stop) as float32."""
        unsigned = self.codes.read_codes(start, stop)
        scales, zeros = self.codes.read_scales(start, stop)
        signed = unsigned.astype(np.float32) - np.float32(1 << (self.codes.bits - 1))
        return np.asarray(signed * scales[:, self.groups] + zeros[:, self.groups], np.float32)


def in_order(groups: npt.NDArray[np.int64], block: int) -> bool:
    """Whether group numbers are those of consecutive runs of `block` inputs."""
    return bool(np.array_equal(groups, np.arange(len(groups)) // block))

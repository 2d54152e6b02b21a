"""What an adapter does to one tensor, row by row, in float32.

All of it is expressed in the orientation in which the checkpoint stores the tensor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from pipeline.checkpoint.tensor import Array, LazyTensor, to_float32

F32 = npt.NDArray[np.float32]
# A product is always formed over whole tiles of rows, so that its last bits do not depend on which rows are asked for.
TILE = 64
PIECE = 1 << 20


class Change(Protocol):
    """One adapter's effect on a tensor."""

    def apply(self, rows: F32, original: F32, start: int) -> F32:
        """New values of rows [start, start + len(rows)). `original`: the same rows before any adapter."""

    @property
    def is_zero(self) -> bool:
        """Whether the tensor stays as it is."""


@dataclass(frozen=True)
class LowRank:
    """rows + scale · left[rows] @ right. left: float32 [rows, r]; right: float32 [r, columns]."""

    left: F32
    right: F32
    scale: float

    def delta(self, start: int, stop: int) -> F32:
        """scale · left[start:stop] @ right, float32 [stop − start, columns]."""
        low, high = start // TILE * TILE, min(len(self.left), -(-stop // TILE) * TILE)
        tiles = [self.left[at : at + TILE] @ self.right for at in range(low, high, TILE)]
        product = np.concatenate(tiles) if tiles else np.empty((0, self.right.shape[1]), np.float32)
        return np.asarray(product[start - low : stop - low] * np.float32(self.scale), np.float32)

    def apply(self, rows: F32, original: F32, start: int) -> F32:
        return np.asarray(rows + self.delta(start, start + len(rows)), np.float32)

    @property
    def is_zero(self) -> bool:
        return not (self.scale and self.left.any() and self.right.any())


@dataclass(frozen=True)
class Dora:
    """m · (W + Δ) / ‖W + Δ‖ per output feature (DoRA, section 4); the norm is of the tensor before any adapter, as in
    PEFT. magnitude: float32 [outputs]. output_axis: 0 if the stored rows are outputs, 1 if the columns are (Conv1D,
    embeddings)."""

    low_rank: LowRank
    magnitude: F32
    output_axis: int
    base: LazyTensor

    def apply(self, rows: F32, original: F32, start: int) -> F32:
        delta = self.low_rank.delta(start, start + len(rows))
        if self.output_axis == 1:
            return np.asarray((rows + delta) * self._column_factors[None, :], np.float32)
        norms = np.linalg.norm(original + delta, axis=1)
        factors = self.magnitude[start : start + len(rows)] / norms
        return np.asarray((rows + delta) * factors[:, None], np.float32)

    @cached_property
    def _column_factors(self) -> F32:
        total = np.zeros(self.base.shape[1], np.float64)
        step = max(1, PIECE // self.base.shape[1])
        for start in range(0, self.base.shape[0], step):
            rows = to_float32(self.base.read(start, start + step))
            total += np.square(rows + self.low_rank.delta(start, start + len(rows)), dtype=np.float64).sum(axis=0)
        return np.asarray(self.magnitude / np.sqrt(total), np.float32)

    @property
    def is_zero(self) -> bool:
        return False


@dataclass(frozen=True)
class Shift:
    """A vector added to a vector (the bias of lora_B, scaled)."""

    values: F32

    def apply(self, rows: F32, original: F32, start: int) -> F32:
        return np.asarray(rows + self.values[start : start + len(rows)], np.float32)

    @property
    def is_zero(self) -> bool:
        return not self.values.any()


@dataclass(frozen=True)
class Replacement:
    """All values are new (modules_to_save, trained biases)."""

    values: LazyTensor

    def apply(self, rows: F32, original: F32, start: int) -> F32:
        return to_float32(self.values.read(start, start + len(rows)))

    @property
    def is_zero(self) -> bool:
        return False


@dataclass(frozen=True)
class ChangedTensor:
    """A tensor with changes applied in their order; float32. A vector is treated as rows of one value."""

    base: LazyTensor
    changes: Sequence[Change] = field(default=())
    dtype: str = "F32"

    @property
    def shape(self) -> tuple[int, ...]:
        return self.base.shape

    def read(self, start: int = 0, stop: int | None = None) -> Array:
        """Rows [start, stop), float32."""
        first, _, _ = slice(start, stop).indices(self.shape[0])
        original = to_float32(self.base.read(start, stop))
        rows: Any = original
        for change in self.changes:
            rows = change.apply(rows, original, first)
        return np.asarray(rows, np.float32)

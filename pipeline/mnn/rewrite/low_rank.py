"""What a split adapter adds to one linear."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class LowRank:
    """A change of one linear by up @ down. down: float32 [rank, in_features]; up: float32 [out_features, rank].

    The adapter's scaling (alpha / rank, its weight) is already in `up`. bias: float32 [out_features] to add, or None.
    """

    down: npt.NDArray[np.float32]
    up: npt.NDArray[np.float32]
    bias: npt.NDArray[np.float32] | None = None

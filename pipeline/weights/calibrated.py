"""What calibration hands to the weight stage: importances and solutions, as safetensors.

The format's home is on the reader's side: the weight stage then imports nothing of `pipeline.calibrate`, and another
way to calibrate rebuilds no product that is not calibrated.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.checkpoint.safetensors import read_safetensors, write_safetensors

F32 = NDArray[np.float32]
STATISTICS = "statistics.safetensors"


def save_importance(folder: Path, importance: Mapping[str, F32]) -> None:
    """By linear, float32 [in_features]."""
    write_safetensors(folder / STATISTICS, dict(importance))


def load_importance(folder: Path) -> dict[str, F32]:
    """What `save_importance` wrote; {} if the stage wrote none."""
    path = folder / STATISTICS
    return {name: tensor.read() for name, tensor in read_safetensors(path).items()} if path.is_file() else {}


def save_solution(folder: Path, name: str, codes: NDArray[np.uint8], scale: F32, zero: F32) -> None:
    """One file per linear, written as soon as it is known. codes: uint8 [out, in]; scale, zero: [out, in / block]."""
    arrays: dict[str, Any] = {"codes": codes, "scale": scale, "zero": zero}
    write_safetensors(folder / f"solution-{name}.safetensors", arrays)


@dataclass(frozen=True)
class StoredLattice:
    """A solution as the weight stage reads it: rows of codes [n, in] and of scales and zeros [n, in / block]."""

    tensors: Mapping[str, Any]

    def read_codes(self, start: int = 0, stop: int | None = None) -> NDArray[np.uint8]:
        """Unsigned codes."""
        return np.asarray(self.tensors["codes"].read(start, stop))

    def read_scales(self, start: int = 0, stop: int | None = None) -> tuple[F32, F32]:
        """(scales, zeros)."""
        return self.tensors["scale"].read(start, stop), self.tensors["zero"].read(start, stop)


def load_solutions(folder: Path) -> dict[str, StoredLattice]:
    """By linear."""
    files = sorted(folder.glob("solution-*.safetensors"))
    return {
        file.name.removeprefix("solution-").removesuffix(".safetensors"): StoredLattice(read_safetensors(file))
        for file in files
    }

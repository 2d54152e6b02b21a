"""Scales that are folded out of a linear's input: into its columns, and out of what makes the input (awq.py)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.checkpoint.safetensors import read_safetensors, write_safetensors

F32 = NDArray[np.float32]
FOLDS = "folds.safetensors"


@dataclass(frozen=True)
class Folds:
    """Scales by name, float32. inputs: of a linear's columns [in_features], multiplied; outputs: of a linear's rows and
    bias [out_features], divided; norms: of a norm's gamma and beta, by the skeleton's name of the operator, divided."""

    inputs: Mapping[str, F32] = field(default_factory=dict)
    outputs: Mapping[str, F32] = field(default_factory=dict)
    norms: Mapping[str, F32] = field(default_factory=dict)

    def rows(self, name: str, rows: NDArray[Any], start: int, stop: int) -> NDArray[Any]:
        """Rows [start, stop) of linear `name` as they are stored: as they are, or scaled in float32."""
        if name in self.inputs:
            rows = rows.astype(np.float32) * self.inputs[name]
        if name in self.outputs:
            rows = rows.astype(np.float32) / self.outputs[name][start:stop, None]
        return rows

    def bias(self, name: str, bias: F32) -> F32:
        """The bias [out_features] of linear `name` as it is stored."""
        return bias / self.outputs[name] if name in self.outputs else bias


def save_folds(folder: Path, folds: Folds) -> None:
    """As folds.safetensors: `inputs/<linear>`, `outputs/<linear>`, `norms/<operator>`."""
    kinds = {"inputs": folds.inputs, "outputs": folds.outputs, "norms": folds.norms}
    arrays = {f"{kind}/{name}": scale for kind, scales in kinds.items() for name, scale in scales.items()}
    write_safetensors(folder / FOLDS, arrays)


def load_folds(folder: Path) -> Folds:
    """What `save_folds` wrote."""
    kinds: dict[str, dict[str, F32]] = {"inputs": {}, "outputs": {}, "norms": {}}
    for key, tensor in read_safetensors(folder / FOLDS).items():
        kind, _, name = key.partition("/")
        kinds[kind][name] = tensor.read()
    return Folds(**kinds)

"""Norms whose gamma and beta take over the division of a scaled input (AWQ)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import StageFailed
from pipeline.mnn.rewrite.graph import Json

F32 = npt.NDArray[np.float32]


def divide_norms(operators: list[Json], scales: Mapping[str, F32]) -> None:
    """Divides gamma and beta of the LayerNorm operators named by `scales`, in place, in float32.

    Raises StageFailed for a name that is no norm of the graph, or one of another size.
    """
    norms = {operator["name"]: operator["main"] for operator in operators if operator["type"] == "LayerNorm"}
    for name, scale in scales.items():
        main: dict[str, Any] = norms.get(name, {})
        if len(main.get("gamma") or []) != len(scale):
            raise StageFailed(f"link: the graph has no norm '{name}' over {len(scale)} channels to fold a scale into")
        for key in ("gamma", "beta"):
            if main.get(key):
                main[key] = [float(value) for value in np.asarray(main[key], np.float32) / scale]

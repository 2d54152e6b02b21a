"""What the calibrating stages have in common: when they are needed, what they may read, how much memory they take."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.weights.algorithms import CALIBRATED

MODEL_CONFIG = ("model.trust_remote_code", "adapter.mode", "adapter.weight")
BUDGETS = ("target_bytes", "target_bpw", "max_kld")


def uses(recipe: Mapping[str, Any], algorithm: str) -> bool:
    """Whether the recipe or one of its rules names `algorithm`."""
    quant = recipe["quant"]
    return any(one.get("algorithm") == algorithm for one in (quant, *(quant.get("rules") or [])))


def calibrates(recipe: Mapping[str, Any]) -> bool:
    """Whether any stage looks at the calibration text."""
    return is_automatic(recipe) or any(uses(recipe, algorithm) for algorithm in CALIBRATED)


def is_automatic(recipe: Mapping[str, Any]) -> bool:
    """Whether the recipe gives a budget instead of (or on top of) bits and block."""
    return any(recipe["quant"].get(key) is not None for key in BUDGETS)


def stream_memory(recipe: Mapping[str, Any]) -> int:
    """Bytes: torch and its friends, one layer in float32 with its Hessians, the calibration text's hidden states."""
    parameters = float(recipe["model"].get("parameters") or 0.5) * 1e9
    return int((900 << 20) + 1.6 * parameters)


def whole_memory(recipe: Mapping[str, Any]) -> int:
    """Bytes: torch and its friends, and all of the model in float32."""
    return int((900 << 20) + 4.6e9 * float(recipe["model"].get("parameters") or 0.5))

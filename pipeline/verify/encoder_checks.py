"""What the gate asks of every product with an encoder, whatever it encodes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.verify.gate import Check, equal
from pipeline.verify.metrics import Logits

LEAST = 1e-4  # share of the largest logit by which another input must move some logit


def weight_file(folder: Path, kind: str, name: str, weights: Mapping[str, Any]) -> Check:
    """The engine reads a file that is too short without a word, or dies of it. name: of the encoder, in the report."""
    return equal(f"{name} weight file size", (folder / f"{kind}.mnn.weight").stat().st_size, int(weights["bytes"]))


def dependence(what: str, first: Logits, second: Logits) -> list[Check]:
    """Logits after two inputs that differ, float32 [vocabulary] each: they are numbers, and not the same ones."""
    finite = bool(np.isfinite(first).all() and np.isfinite(second).all())
    moved = float(np.abs(first - second).max() / np.abs(first).max()) if finite else 0.0
    return [
        equal(f"logits after a {what}", "finite" if finite else "not finite", "finite"),
        Check(f"change of the logits with the {what}", moved, f"above {LEAST:g}", moved > LEAST),
    ]

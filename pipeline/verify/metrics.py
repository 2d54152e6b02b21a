"""How far the engine's logits are from the reference's. Plain numpy in float64, a few rows at a time.

Rows are token positions, columns the vocabulary; inputs are float32 [positions, vocabulary] (memory maps are welcome).
A block of 256 × 49,152 float32 is 50 MB; working on 16 rows keeps the float64 copies below 32 MB whatever the length.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

ROWS = 16
Logits = NDArray[np.float32]


@dataclass(frozen=True)
class Agreement:
    """kld_mean, kld_p99: nats per position, KL(reference ‖ engine). top1: share of positions with the same argmax.

    max_error: largest |difference| of raw logits; reference_max: largest |logit| of the reference.
    """

    positions: int
    kld_mean: float
    kld_p99: float
    top1: float
    max_error: float
    reference_max: float

    @property
    def relative_error(self) -> float:
        """max_error as a share of the reference's largest logit."""
        return self.max_error / self.reference_max if self.reference_max else float("inf")

    def as_dict(self) -> dict[str, float | int]:
        return {**asdict(self), "relative_error": self.relative_error}


def compare_logits(reference: Logits, engine: Logits) -> Agreement:
    """Every figure in one pass. Raises ValueError if the shapes differ, are empty, or a value is not finite."""
    _require_comparable(reference, engine)
    kld, same = np.empty(len(reference)), 0
    max_error = reference_max = 0.0
    for start in range(0, len(reference), ROWS):
        rows = slice(start, start + ROWS)
        p, q = reference[rows].astype(np.float64), engine[rows].astype(np.float64)
        if not (np.isfinite(p).all() and np.isfinite(q).all()):
            raise ValueError(f"logits of positions {start}–{start + len(p) - 1} are not finite")
        kld[rows] = kl_divergence(p, q)
        same += int((p.argmax(axis=-1) == q.argmax(axis=-1)).sum())
        max_error = max(max_error, float(np.abs(p - q).max()))
        reference_max = max(reference_max, float(np.abs(p).max()))
    mean, p99 = float(kld.mean()), float(np.quantile(kld, 0.99))
    return Agreement(len(reference), mean, p99, same / len(reference), max_error, reference_max)


def kl_divergence(reference: NDArray[np.float64], engine: NDArray[np.float64]) -> NDArray[np.float64]:
    """KL(softmax(reference) ‖ softmax(engine)) of each row, in nats; float64 [rows], never below zero."""
    log_p, log_q = log_softmax(reference), log_softmax(engine)
    divergence: NDArray[np.float64] = np.maximum((np.exp(log_p) * (log_p - log_q)).sum(axis=-1), 0.0)
    return divergence


def log_softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Log-probabilities along the last axis, shifted by the maximum so that exp() cannot overflow."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    log_p: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return log_p


def _require_comparable(reference: Logits, engine: Logits) -> None:
    if reference.shape != engine.shape or reference.ndim != 2 or not reference.size:
        raise ValueError(f"logits of shapes {reference.shape} and {engine.shape} cannot be compared")

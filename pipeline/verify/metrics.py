"""How far the engine's logits are from the reference's. Plain numpy in float64, a few rows at a time.

Rows are token positions, columns the vocabulary; inputs are float32 [positions, vocabulary] (memory maps are welcome).
A block of 256 × 49,152 float32 is 50 MB; working on 16 rows keeps the float64 copies below 32 MB whatever the length.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

ROWS = 16
Logits = NDArray[np.float32]


@dataclass(frozen=True)
class Agreement:
    """divergences: float64 [positions], KL(reference ‖ engine) in nats. same: positions with the same argmax.

    max_error: largest |difference| of raw logits; reference_max: largest |logit| of the reference.
    """

    divergences: NDArray[np.float64]
    same: int
    max_error: float
    reference_max: float

    @property
    def kld_mean(self) -> float:
        return float(self.divergences.mean())

    @property
    def kld_p99(self) -> float:
        return float(np.quantile(self.divergences, 0.99))

    @property
    def top1(self) -> float:
        """Share of positions at which both choose the same token."""
        return self.same / len(self.divergences)

    @property
    def relative_error(self) -> float:
        """max_error as a share of the reference's largest logit."""
        return self.max_error / self.reference_max if self.reference_max else float("inf")

    def as_dict(self) -> dict[str, float | int]:
        """The figures of a report."""
        names = ("kld_mean", "kld_p99", "top1", "max_error", "relative_error")
        return {"positions": len(self.divergences), **{name: getattr(self, name) for name in names}}


def compare_logits(reference: Logits, engine: Logits) -> Agreement:
    """Every figure in one pass. Raises ValueError if the shapes differ, are empty, or a value is not finite."""
    _require_comparable(reference, engine)
    divergences, same = np.empty(len(reference)), 0
    max_error = reference_max = 0.0
    for start in range(0, len(reference), ROWS):
        rows = slice(start, start + ROWS)
        p, q = reference[rows].astype(np.float64), engine[rows].astype(np.float64)
        if not (np.isfinite(p).all() and np.isfinite(q).all()):
            raise ValueError(f"logits of positions {start}–{start + len(p) - 1} are not finite")
        divergences[rows] = kl_divergence(p, q)
        same += int((p.argmax(axis=-1) == q.argmax(axis=-1)).sum())
        max_error = max(max_error, float(np.abs(p - q).max()))
        reference_max = max(reference_max, float(np.abs(p).max()))
    return Agreement(divergences, same, max_error, reference_max)


def relative_errors(reference: Logits, engine: Logits, prefill: int) -> dict[str, float]:
    """Largest errors as shares of the reference's largest logit: of the first `prefill` rows, and of the steps after.

    A value that is not finite is an infinite error. Raises ValueError if the shapes differ or are empty.
    """
    _require_comparable(reference, engine)
    error = np.abs(reference.astype(np.float64) - engine) / float(np.abs(reference).max())
    error = np.nan_to_num(error, nan=np.inf)
    return {"prefill_error": float(error[:prefill].max()), "decode_error": float(error[prefill:].max())}


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


def pooled(parts: Sequence[Agreement]) -> Agreement:
    """Figures over the positions of all parts; the 99th percentile over their joined divergences."""
    if not parts:
        raise ValueError("no sequence was compared")
    divergences = np.concatenate([part.divergences for part in parts])
    return Agreement(
        divergences=divergences,
        same=sum(part.same for part in parts),
        max_error=max(part.max_error for part in parts),
        reference_max=max(part.reference_max for part in parts),
    )

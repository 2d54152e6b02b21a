"""Bytes of a stored matrix, and what a budget chooses from: arithmetic alone, for stages and for plans."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.weights.precision import FP16, Precision

BLOCKS = (32, 64, 128, 192, 256)


def code_bytes(weights: int, bits: int) -> int:
    """Bytes of `weights` packed codes."""
    return (weights * bits + 7) // 8


def alpha_bytes(out_features: int, in_features: int, precision: Precision) -> int:
    """Bytes of all scales (and zeros) of a matrix."""
    if precision.bits == FP16:
        return 0
    values = out_features * (in_features // precision.block) * (1 if precision.symmetric else 2)
    return values * precision.scale_bits // 8


def stored_bytes(out_features: int, in_features: int, precision: Precision) -> int:
    """Bytes of a matrix in the weight file, header and bias aside."""
    if precision.bits == FP16:
        return 2 * out_features * in_features
    return code_bytes(out_features * in_features, precision.bits) + alpha_bytes(out_features, in_features, precision)


def candidates(in_features: int, bits: Sequence[int], symmetric: bool, scale_bits: int) -> list[Precision]:
    """What a budget may choose for a linear: every width below fp16, with every block that divides its inputs."""
    blocks = [block for block in BLOCKS if in_features % block == 0] or [in_features]
    return [Precision(width, block, symmetric, scale_bits) for width in bits if width < FP16 for block in blocks]

"""The predicted KL divergence of each linear at each precision.

To second order and with inputs and gradients taken as independent, an error d of a weight matrix costs
½ Σ_oi E[g_o²] E[x_i²] d_oi² nats a token (statistics.sensitivities says what g is). The costs of linears add up. The
figures rank candidates; they are not the product's divergence, which is smaller, since calibration also makes use of
what is correlated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.calibrate.rounding import nearest, sampled
from pipeline.calibrate.statistics import Progress
from pipeline.checkpoint.tensor import Checkpoint
from pipeline.weights.layout import Layout, Linear
from pipeline.weights.precision import Precision
from pipeline.weights.sizes import candidates, stored_bytes

F32 = NDArray[np.float32]
SEQUENCES = 6
"""Of the calibration text: the gradients' sampling error is far below the differences between candidates."""
ROWS = 96
"""Rows looked at, evenly spread; their weighted error is scaled up."""


def table(
    layout: Layout,
    checkpoint: Checkpoint,
    inputs: Mapping[str, F32],
    outputs: Mapping[str, F32],
    bits: Sequence[int],
    quant: Mapping[str, Any],
    progress: Progress,
) -> dict[str, Any]:
    """{"linears": {NAME: [{"bits", "block", "bytes", "kld"}]}}, for linears whose inputs and outputs were measured.

    inputs: E[x²] [in_features]; outputs: E[g²] [out_features]. bytes: in the weight file, without the bias.
    """
    found: dict[str, list[dict[str, float]]] = {}
    linears = [linear for linear in layout.linears if linear.name in inputs and linear.name in outputs]
    for number, linear in enumerate(linears):
        if not linear.keep:
            choices = candidates(linear.in_features, bits, bool(quant["symmetric"]), int(quant["scale_bits"]))
            costs = [_cost(linear, checkpoint, inputs, outputs, one) for one in choices]
            found[linear.name] = [_entry(linear, *pair) for pair in zip(choices, costs, strict=True)]
        progress(number + 1, len(linears), "linears")
    return {"linears": found}


def _entry(linear: Linear, precision: Precision, kld: float) -> dict[str, float]:
    size = stored_bytes(linear.out_features, linear.in_features, precision)
    return {"bits": precision.bits, "block": precision.block, "bytes": size, "kld": float(f"{kld:.6g}")}


def _cost(
    linear: Linear,
    checkpoint: Checkpoint,
    inputs: Mapping[str, F32],
    outputs: Mapping[str, F32],
    precision: Precision,
) -> float:
    weights, rows = sampled(linear, checkpoint, ROWS)
    square = inputs[linear.name]
    miss = nearest(weights, square, precision) - weights
    by_row = np.square(miss, dtype=np.float64) @ square.astype(np.float64)
    weight = outputs[linear.name][rows].astype(np.float64)
    return float(0.5 * (by_row * weight).mean() * linear.out_features)

"""The scales of AWQ: for every place where one can be folded, the power of the inputs' size with the least error.

s_i = (E[x_i²])^(α/2), of geometric mean 1; α is tried on a grid, and judged by the error of the outputs of all linears
that read the input, tr(D H Dᵀ) with H = E[x xᵀ] and D the rounding error of some of their rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.calibrate.folds import FoldPoint
from pipeline.calibrate.rounding import nearest, sampled
from pipeline.calibrate.solve import watched
from pipeline.calibrate.statistics import Progress, covered, head_inputs
from pipeline.calibrate.stream import Stream
from pipeline.errors import StageFailed
from pipeline.weights.folds import Folds
from pipeline.weights.layout import Linear
from pipeline.weights.precision import FP16, Precision

F32 = NDArray[np.float32]
POWERS = tuple(step / 8 for step in range(8))
ROWS = 64
"""Rows of each linear that a power is judged by."""
FLOOR = 1e-4
"""Of the mean square over channels: an input that the text never drove is not scaled to nothing."""


@dataclass
class _Found:
    """The mappings of Folds in the making, and E[x²] by linear."""

    inputs: dict[str, F32] = field(default_factory=dict)
    outputs: dict[str, F32] = field(default_factory=dict)
    norms: dict[str, F32] = field(default_factory=dict)
    squares: dict[str, F32] = field(default_factory=dict)

    def add(self, point: FoldPoint, scale: F32) -> None:
        """`scale` by source channel, at the place that `point` names."""
        for name in point.scaled:
            self.inputs[name] = scale[point.channels]
            self.squares[name] = np.asarray(self.squares[name] / np.square(scale[point.channels]), np.float32)
        if point.norm:
            self.norms[point.norm] = scale
        else:
            self.outputs[point.linear] = scale


def find(
    stream: Stream,
    linears: Sequence[Linear],
    precisions: Mapping[str, Precision],
    points: Sequence[FoldPoint],
    sequences: Sequence[Sequence[int]],
    head: str,
    progress: Progress,
) -> tuple[Folds, dict[str, F32]]:
    """The scales of all `points` between linears whose algorithm is awq, and E[x²] of every covered linear's input as
    it is after its division."""
    by_name = {linear.name: linear for linear in linears}
    usable = [point for point in points if _is_awq([*point.scaled, point.linear], precisions)]
    found = _Found()
    hidden = stream.begin(sequences)
    with torch.no_grad():
        for number in range(len(stream.layers)):
            path = stream.layer_path(number)
            with stream.loaded(path):
                modules = covered(stream, linears, path)
                here = [point for point in usable if all(name in modules for name in point.scaled)]
                hessians, hidden = _hessians(stream, number, modules, here, hidden, found.squares)
            for point in here:
                members = [by_name[name] for name in point.scaled]
                found.add(point, _best(members, precisions, stream, point, hessians[point.scaled[0]]))
            progress(number + 1, len(stream.layers), "layers")
    found.squares[head] = head_inputs(stream, hidden).array()
    return Folds(found.inputs, found.outputs, found.norms), found.squares


def _is_awq(names: Sequence[str], precisions: Mapping[str, Precision]) -> bool:
    wanted = [precisions[name] for name in names if name]
    return all(one.algorithm == "awq" and one.bits != FP16 for one in wanted)


def _hessians(
    stream: Stream,
    number: int,
    modules: Mapping[str, Any],
    points: Sequence[FoldPoint],
    hidden: Sequence[torch.Tensor],
    squares: dict[str, F32],
) -> tuple[dict[str, F32], list[torch.Tensor]]:
    """E[x xᵀ] by the first linear of each point, and the layer's outputs; E[x²] of all its linears into `squares`."""
    whole = {point.scaled[0] for point in points}
    sums: dict[str, torch.Tensor] = {}
    tokens: dict[str, int] = dict.fromkeys(modules, 0)

    def add(name: str, inputs: torch.Tensor) -> None:
        rows = inputs.reshape(-1, inputs.shape[-1])
        found = rows.T @ rows if name in whole else rows.square().sum(0)
        sums[name] = sums[name].add_(found) if name in sums else found
        tokens[name] += len(rows)

    with watched(modules, add):
        after = [stream.run(number, states) for states in hidden]
    means = {name: np.asarray((total / tokens[name]).numpy()) for name, total in sums.items()}
    squares |= {name: np.ascontiguousarray(mean.diagonal() if mean.ndim == 2 else mean) for name, mean in means.items()}
    return {name: means[name] for name in whole}, after


def _best(
    members: Sequence[Linear], precisions: Mapping[str, Precision], stream: Stream, point: FoldPoint, hessian: F32
) -> F32:
    """The scale of each of the point's source channels, float32."""
    if not np.isfinite(hessian).all():
        name = members[0].name
        raise StageFailed(f"calibration drives '{name}' to infinity", "quantise it with a rule: algorithm: mse")
    square = _by_source(np.ascontiguousarray(hessian.diagonal()), point.channels)
    tried = [_scale(square, power) for power in POWERS]
    errors = np.zeros(len(tried))
    for linear in members:
        weights = sampled(linear, stream.checkpoint, ROWS)[0]
        scales = [scale[point.channels] for scale in tried]
        errors += [_error(weights, linear, precisions[linear.name], scale, hessian) for scale in scales]
    return tried[int(np.argmin(errors))]


def _by_source(square: F32, channels: NDArray[np.intp]) -> F32:
    """Mean of `square` over the inputs that come from each source channel."""
    total = np.bincount(channels, square.astype(np.float64)) / np.bincount(channels)
    return np.asarray(np.maximum(total, FLOOR * total.mean() + 1e-12), np.float32)


def _scale(square: F32, power: float) -> F32:
    logarithms = 0.5 * power * np.log(square.astype(np.float64))
    return np.asarray(np.exp(logarithms - logarithms.mean()), np.float32)


def _error(weights: F32, linear: Linear, precision: Precision, scale: F32, hessian: F32) -> float:
    """Mean squared error of the outputs of all rows of `linear`, from that of the rows given."""
    importance = np.asarray(hessian.diagonal() / np.square(scale), np.float32)
    miss = nearest(weights * scale, importance, precision) / scale - weights
    return float(np.einsum("ij,ij->", miss @ hessian, miss, dtype=np.float64) / len(weights) * linear.out_features)

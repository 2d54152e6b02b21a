"""Quantise a model layer by layer, each layer calibrated on what the quantised layers before it put out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.calibrate import gptq
from pipeline.calibrate.gptq import Solution
from pipeline.calibrate.statistics import Progress, covered, head_inputs, module_path
from pipeline.calibrate.stream import Stream
from pipeline.errors import UserError
from pipeline.weights.layout import Linear, Part
from pipeline.weights.parts import part_rows, read_rows, source_rows
from pipeline.weights.precision import Precision

Tensor = torch.Tensor
F32 = NDArray[np.float32]
Found = Callable[[str, Solution], None]


def solve_layers(
    stream: Stream,
    linears: Sequence[Linear],
    precisions: Mapping[str, Precision],
    sequences: Sequence[Sequence[int]],
    head: str,
    act_order: bool,
    found: Found,
    progress: Progress,
) -> dict[str, F32]:
    """Hand the solution of every linear whose algorithm is gptq to `found`; E[x²] of all covered linears is returned.

    Within a layer, linears that share an input are solved together, in the order in which the layer uses them.
    """
    by_name = {linear.name: linear for linear in linears}
    hidden = stream.begin(sequences)
    squares: dict[str, F32] = {}
    with torch.no_grad():
        for number in range(len(stream.layers)):
            path = stream.layer_path(number)
            with stream.loaded(path):
                modules = covered(stream, linears, path)
                for group in _groups(stream, number, modules, hidden[0]):
                    hessian = _hessian(stream, number, modules[group[0]], hidden)
                    for name in group:
                        squares[name] = np.ascontiguousarray(hessian.diagonal())
                        if precisions[name].algorithm == "gptq" and precisions[name].bits < 16:
                            solution = _solved(stream, by_name[name], hessian, precisions[name], act_order)
                            found(name, solution)
                    for place in sorted({module_path(name, stream.paths) for name in group}):
                        stream.load(place)
                hidden = [stream.run(number, states) for states in hidden]
            stream.patched.clear()
            progress(number + 1, len(stream.layers), "layers")
    squares[head] = head_inputs(stream, hidden).array()
    return squares


def _solved(stream: Stream, linear: Linear, hessian: F32, precision: Precision, act_order: bool) -> Solution:
    """Solve `linear`, and let the stream's checkpoint hold the dequantised weights from now on."""
    weights = read_rows(linear.parts, stream.checkpoint, 0, linear.out_features).astype(np.float32)
    solution = gptq.solve(weights, hessian, precision, linear.name, act_order)
    restored, start = solution.dequantised(precision), 0
    for part in linear.parts:
        stop = start + part_rows(part, stream.checkpoint)
        _patch(stream, part, restored[start:stop], linear.name)
        start = stop
    return solution


def _patch(stream: Stream, part: Part, rows: F32, name: str) -> None:
    """Put `rows` where `part` reads its rows from."""
    if part.index is not None or part.scale != 1.0:
        raise UserError(f"'{name}' is read from a stacked or scaled tensor, which gptq cannot calibrate",
                        "add a rule for it with algorithm: mse")
    if part.tensor not in stream.patched:
        stream.patched[part.tensor] = np.array(stream.checkpoint[part.tensor].read(), np.float32)
    tensor = stream.patched[part.tensor]
    (tensor.T if part.transpose else tensor)[source_rows(part, len(rows))] = rows


def _groups(stream: Stream, number: int, modules: Mapping[str, Any], states: Tensor) -> list[list[str]]:
    """Names of linears with the same input, in the order of use."""
    order: list[tuple[int, str]] = []
    kept: list[Tensor] = []  # so that no address is used twice

    def note(name: str, inputs: Tensor) -> None:
        kept.append(inputs)
        order.append((inputs.data_ptr(), name))

    with watched(modules, note):
        stream.run(number, states)
    groups: dict[int, list[str]] = {}
    for address, name in order:
        groups.setdefault(address, []).append(name)
    return list(groups.values())


class _Enough(Exception):
    """The input that was wanted has been seen; the rest of the layer need not run."""


def _hessian(stream: Stream, number: int, module: Any, hidden: Sequence[Tensor]) -> F32:
    """Mean of x xᵀ over all tokens of the inputs of `module`, float32 [in, in]."""
    total: Tensor | None = None
    tokens = 0

    def add(name: str, inputs: Tensor) -> None:
        nonlocal total, tokens
        rows = inputs.reshape(-1, inputs.shape[-1])
        product = rows.T @ rows
        total = product if total is None else total.add_(product)
        tokens += len(rows)
        raise _Enough

    with watched({"": module}, add):
        for states in hidden:
            try:
                stream.run(number, states)
            except _Enough:
                continue
    assert total is not None
    return np.asarray((total / tokens).numpy())


@contextmanager
def watched(modules: Mapping[str, Any], note: Callable[[str, Tensor], None]) -> Iterator[None]:
    """While open, `note` gets each module's name and input just before the module runs."""
    with ExitStack() as stack:
        for name, module in modules.items():
            handle = module.register_forward_pre_hook(lambda _, args, name=name: note(name, args[0]))
            stack.callback(handle.remove)
        yield



"""Mean squares of every linear's inputs, and of the loss's gradient at its outputs, over calibration text."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.calibrate.stream import Stream
from pipeline.weights.layout import Linear
from pipeline.weights.parts import deinterleaved, source_rows

Tensor = torch.Tensor
F32 = NDArray[np.float32]
Progress = Callable[[int, int, str], None]


@dataclass
class Mean:
    """A running mean over tokens, in float64."""

    total: Tensor | None = None
    count: int = 0

    def add(self, values: Tensor) -> None:
        """values [..., features]: every leading position is one token."""
        rows = values.detach().reshape(-1, values.shape[-1]).double()
        summed = rows.square().sum(0)
        self.total = summed if self.total is None else self.total + summed
        self.count += len(rows)

    def array(self) -> F32:
        """float32 [features]."""
        assert self.total is not None
        return np.asarray((self.total / self.count).numpy(), np.float32)


def covered(stream: Stream, linears: Sequence[Linear], path: str) -> dict[str, Any]:
    """The modules of the linears below `path`, by the linears' names. Experts kept in one stacked tensor have none."""
    modules = dict(stream.model.named_modules())
    below = [linear.name for linear in linears if f"{linear.name}.".startswith(f"{path}.")]
    paths = {name: module_path(name, modules) for name in below}
    return {name: modules[place] for name, place in paths.items() if place in modules}


def module_path(linear: str, modules: Container[str]) -> str:
    """Where a linear is in the model. The graph splits fused ones: `…qkv_proj.0` is some rows of `…qkv_proj`."""
    path, _, number = linear.rpartition(".")
    return path if number.isdecimal() and linear not in modules else linear


def importance(
    stream: Stream, linears: Sequence[Linear], sequences: Sequence[Sequence[int]], head: str, progress: Progress
) -> dict[str, F32]:
    """E[x²] of every covered linear's inputs, float32 [in_features], by name."""
    hidden = stream.begin(sequences)
    means: dict[str, Mean] = {}
    with torch.no_grad():
        for number in range(len(stream.layers)):
            path = stream.layer_path(number)
            with stream.loaded(path), inputs_of(covered(stream, linears, path), means):
                hidden = [stream.run(number, states) for states in hidden]
            progress(number + 1, len(stream.layers), "layers")
        means[head] = head_inputs(stream, hidden)
    return {name: mean.array() for name, mean in means.items()}


def head_inputs(stream: Stream, hidden: Sequence[Tensor]) -> Mean:
    """Mean squares of what the output head sees."""
    mean = Mean()
    with torch.no_grad(), stream.loaded(stream.final_norm()) as norm:
        for states in hidden:
            mean.add(norm(states))
    return mean


@contextmanager
def inputs_of(modules: Mapping[str, Any], means: dict[str, Mean]) -> Iterator[None]:
    """While open, adds each module's inputs to its mean."""
    with ExitStack() as stack:
        for name, module in modules.items():
            mean = means.setdefault(name, Mean())
            handle = module.register_forward_pre_hook(lambda _, args, mean=mean: mean.add(args[0]))
            stack.callback(handle.remove)
        yield


def sensitivities(
    stream: Stream,
    linears: Sequence[Linear],
    sequences: Sequence[Sequence[int]],
    head: str,
    seed: int,
    progress: Progress,
) -> tuple[dict[str, F32], dict[str, F32]]:
    """(E[x²] [in_features], E[g²] [out_features]) of every covered linear, by name.

    g is the gradient of -log p(y) at the linear's output, y drawn from the model's own distribution: then E[g gᵀ] is
    the Fisher matrix, and a perturbation d of the output costs ½ E[(gᵀ d)²] of KL divergence. The backward pass goes
    layer by layer as well; it keeps one hidden state per layer and token.
    """
    entered: list[list[Tensor]] = []
    hidden = stream.begin(sequences)
    inputs: dict[str, Mean] = {}
    outputs: dict[str, Mean] = {}
    steps = 2 * len(stream.layers)
    with torch.no_grad():
        for number in range(len(stream.layers)):
            path = stream.layer_path(number)
            entered.append(hidden)
            with stream.loaded(path), inputs_of(covered(stream, linears, path), inputs):
                hidden = [stream.run(number, states) for states in hidden]
            progress(number + 1, steps, "layers")
    inputs[head] = head_inputs(stream, hidden)
    gradients = _head_gradients(stream, hidden, head, seed, outputs)
    for number in reversed(range(len(stream.layers))):
        path = stream.layer_path(number)
        with stream.loaded(path), _output_gradients(covered(stream, linears, path), outputs):
            states = entered.pop()
            gradients = [_backward(stream, number, *pair) for pair in zip(states, gradients, strict=True)]
        progress(steps - number, steps, "layers")
    ordered = {linear.name: linear for linear in linears}
    known = {name: mean.array() for name, mean in outputs.items() if name in ordered}
    squares = {name: _in_row_order(ordered[name], mean) for name, mean in known.items()}
    found = {name: values for name, values in squares.items() if values is not None}
    return {name: mean.array() for name, mean in inputs.items()}, found


def _in_row_order(linear: Linear, squares: F32) -> F32 | None:
    """Model order to the linear's row order, which differs where interleaved RoPE becomes half rotation.

    squares: of the module's outputs. Where the linear is only some of them: those, or None if the module's rows are
    those of several tensors.
    """
    if len(squares) > linear.out_features:
        runs = [(part, part.rows[1] - part.rows[0]) for part in linear.parts if part.rows is not None]
        if len(runs) < len(linear.parts) or len({part.tensor for part, _ in runs}) > 1:
            return None
        return np.asarray(squares[np.concatenate([source_rows(part, count) for part, count in runs])], np.float32)
    part = linear.parts[0]
    if part.deinterleave is None or len(linear.parts) > 1:
        return squares
    return squares[deinterleaved(np.arange(len(squares)), part.deinterleave[1], part.deinterleave[2])]


def _head_gradients(
    stream: Stream, hidden: Sequence[Tensor], head: str, seed: int, outputs: dict[str, Mean]
) -> list[Tensor]:
    """Gradients at the last layer's output; fills the head's own entry."""
    generator = torch.Generator().manual_seed(seed)
    mean = outputs.setdefault(head, Mean())
    gradients = []
    with stream.loaded(stream.final_norm()) as norm, stream.loaded(head) as projection:
        for states in hidden:
            leaf = states.detach().requires_grad_()
            logits = projection(norm(leaf))
            probabilities = torch.softmax(logits.detach()[0], -1)
            drawn = torch.multinomial(probabilities, 1, generator=generator)
            slope = probabilities.scatter_add(1, drawn, torch.full(drawn.shape, -1.0))
            mean.add(slope)
            logits.backward(slope[None])
            assert leaf.grad is not None
            gradients.append(leaf.grad)
    return gradients


@contextmanager
def _output_gradients(modules: Mapping[str, Any], outputs: dict[str, Mean]) -> Iterator[None]:
    with ExitStack() as stack:
        for name, module in modules.items():
            mean = outputs.setdefault(name, Mean())
            handle = module.register_forward_hook(lambda _, args, out, mean=mean: _watch(out, mean))
            stack.callback(handle.remove)
        yield


def _watch(output: Tensor, mean: Mean) -> None:
    output.register_hook(mean.add)  # type: ignore[no-untyped-call]


def _backward(stream: Stream, number: int, states: Tensor, gradient: Tensor) -> Tensor:
    leaf = states.detach().requires_grad_()
    with torch.enable_grad():
        torch.autograd.backward(stream.run(number, leaf), gradient)
    assert leaf.grad is not None
    return leaf.grad

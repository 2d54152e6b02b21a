"""Gated delta nets (Qwen3-Next, Qwen3.5, OLMo hybrid): the model's own forward, with two functions exchanged.

Everything around the recurrence (projections, gates, the gated norm) is traced as it is. In the place of the causal
convolution stand the columns' numbers, so that what reaches the delta rule as q, k and v says where it came from.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from pipeline.errors import UserError
from pipeline.graph.recurrence import Recurrence, emit_recurrence, layer_number, refuse_mask
from pipeline.graph.tracer import active

CLASSES = ("Qwen3NextGatedDeltaNet", "Qwen3_5GatedDeltaNet", "Qwen3_5MoeGatedDeltaNet", "OlmoHybridGatedDeltaNet")
_CONVOLUTION, _RULE = "causal_conv1d_fn", "torch_chunk_gated_delta_rule"


def forward(
    module: Any, hidden_states: torch.Tensor, cache_params: Any = None, attention_mask: Any = None, **_: Any
) -> torch.Tensor:
    """hidden_states [1, sequence, hidden] → the same shape."""
    refuse_mask(module, attention_mask)
    layer = _Layer(module)
    with _exchanged(type(module), {_CONVOLUTION: layer.convolution, _RULE: layer.rule}):
        output: torch.Tensor = type(module).forward(module, hidden_states)
    return output


@dataclass
class _Layer:
    """One layer while it is traced. columns: what the convolution was given; kernel: its values."""

    module: Any
    columns: torch.Tensor | None = None
    kernel: torch.Tensor | None = None

    def convolution(
        self, x: torch.Tensor, weight: torch.Tensor, bias: Any = None, activation: str | None = None, **_: Any
    ) -> torch.Tensor:
        """Notes x [1, D, sequence] and weight [D, width]; returns the numbers of the columns in x's shape."""
        if bias is not None or activation not in ("silu", "swish"):
            raise UserError(
                f"{type(self.module).__name__} has a convolution with a bias or with {activation} behind it, "
                "which the engine's op has not"
            )
        self.columns, self.kernel = x, weight.unsqueeze(1)
        numbers = torch.arange(x.shape[1], dtype=torch.float32)
        return numbers[None, :, None].expand(x.shape)

    def rule(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        g: torch.Tensor,
        beta: torch.Tensor,
        use_qk_l2norm_in_kernel: bool = False,
        **_: Any,
    ) -> tuple[torch.Tensor, None]:
        """q and k [1, sequence, key heads, size], v [1, sequence, value heads, size] → v's shape, and no state."""
        tracer = active()
        if self.columns is None or self.kernel is None or not _in_order(query, key, value):
            raise UserError(
                f"{type(self.module).__name__} does not take q, k and v one after the other from its convolution, as "
                "the engine's op does"
            )
        (key_heads, key_size), (value_heads, value_size) = key.shape[2:], value.shape[2:]
        shape = Recurrence(
            "gated_delta_rule", key_heads, value_heads, key_size, value_size, bool(use_qk_l2norm_in_kernel)
        )
        inputs = tracer.value(self.columns), tracer.value(g), tracer.value(beta)
        return tracer.tensor(emit_recurrence(tracer, *inputs, self.kernel, layer_number(self.module), shape)), None


def _in_order(*pieces: torch.Tensor) -> bool:
    """True if the pieces' numbers of one token are 0, 1, 2, … of all columns."""
    if any(piece.is_meta for piece in pieces):
        return False
    numbers = torch.cat([piece[0, 0].flatten() for piece in pieces])
    return torch.equal(numbers, torch.arange(len(numbers), dtype=numbers.dtype))


@contextmanager
def _exchanged(owner: type, functions: dict[str, Any]) -> Iterator[None]:
    """While open, the functions of the class's module are others. UserError if it has none of that name."""
    module = sys.modules[owner.__module__]
    missing = sorted(name for name in functions if not hasattr(module, name))
    if missing:
        raise UserError(
            f"{owner.__name__} of this version of transformers has no {missing[0]}, which the trace follows"
        )
    kept = {name: getattr(module, name) for name in functions}
    try:
        for name, function in functions.items():
            setattr(module, name, function)
        yield
    finally:
        for name, function in kept.items():
            setattr(module, name, function)

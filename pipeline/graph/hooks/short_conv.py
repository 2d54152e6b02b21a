"""LFM2's short convolutions: in_proj → B, C, x → C · convolution(B · x) → out_proj."""

from __future__ import annotations

from typing import Any

import torch

from pipeline.graph.ir import constant
from pipeline.graph.moves import cut, reshape
from pipeline.graph.recurrence import Recurrence, emit_recurrence, layer_number, refuse_mask
from pipeline.graph.tracer import active

CLASSES = ("Lfm2ShortConv", "Lfm2MoeShortConv")


def forward(
    module: Any, hidden_states: torch.Tensor, past_key_values: Any = None, attention_mask: Any = None, **_: Any
) -> torch.Tensor:
    """hidden_states [1, sequence, hidden] → the same shape."""
    refuse_mask(module, attention_mask)
    tracer, size = active(), int(hidden_states.shape[-1])
    mixed = module.in_proj(hidden_states)
    shape = Recurrence("short_conv", num_k_heads=1, num_v_heads=1, head_k_dim=size, head_v_dim=size)
    unused = constant([[[0.0]]])  # this kind reads neither gate nor beta
    columns, kernel = tracer.value(mixed.transpose(1, 2)), tracer.real(module.conv.weight)
    result = emit_recurrence(tracer, columns, unused, unused, kernel, layer_number(module), shape)
    convolved = tracer.tensor(reshape(tracer, result, tuple(hidden_states.shape)))
    if module.conv.bias is not None:  # the op has none: C · (convolution + bias) = C · convolution + C · bias
        gate = tracer.tensor(cut(tracer, tracer.value(mixed), 2, size, 2 * size))
        convolved = convolved + gate * module.conv.bias
    output: torch.Tensor = module.out_proj(convolved)
    return output

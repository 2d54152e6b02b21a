"""Attention inside an encoder: the engine's op where the engine feeds a mask, plain matrix products where it does not.

transformers hands whole q, k and v to an attention whose name contains "flash", with sequence boundaries in
`cu_seq_lens_q`; adapters put the engine's additive mask in the boundaries' place, so each layer gets its own. The
engine's op takes a batch of one, so several pictures at once are products. It reads a missing mask as causal: a single
picture without one gets zeros, for as products the scores of Gemma 3's 4,096 patches would take a gigabyte.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from pipeline.errors import UserError
from pipeline.graph.ir import CUSTOM_DOMAIN
from pipeline.graph.moves import reshape, transpose
from pipeline.graph.tracer import Tracer, active

IMPLEMENTATION = "mnn_flash"


def attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    cu_seq_lens_q: torch.Tensor | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' AttentionInterface: query [batch, heads, N, head_dim] → [batch, N, heads, head_dim]."""
    size = int(query.shape[-1])
    factor = size**-0.5 if scaling is None else scaling
    mask = attention_mask if cu_seq_lens_q is None else cu_seq_lens_q
    tracer = active()
    if mask is None and query.shape[0] == 1:
        mask = _nothing_hidden(tracer, query)
    if mask is not None and tracer.is_symbolic(mask):
        return _fused(tracer, query * (factor * math.sqrt(size)), key, value, mask), None
    if mask is not None:
        raise UserError("the encoder masks its attention in a way that the engine does not feed")
    groups = int(query.shape[1]) // int(key.shape[1])
    if groups > 1:
        key, value = (item.repeat_interleave(groups, dim=1) for item in (key, value))
    scores = torch.matmul(query, key.transpose(2, 3)) * factor
    return torch.matmul(scores.softmax(-1), value).transpose(1, 2), None


def _nothing_hidden(tracer: Tracer, query: torch.Tensor) -> torch.Tensor:
    """float32 [1, 1, N, N] of zeros, one for all layers; they depend on the picture (by nothing), or else the graph
    file would hold them."""
    count = int(query.shape[2])
    for node in tracer.graph.nodes:
        if node.op == "FusedAttention" and node.inputs[3].shape == (1, 1, count, count):
            return tracer.tensor(node.inputs[3])
    zero = query[:, :1, :, :1] * 0
    return zero + zero.transpose(2, 3)


def _fused(
    tracer: Tracer, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor
) -> torch.Tensor:
    """The placeholder, which scales by 1/√head_dim itself."""
    batch, heads, count, size = (int(number) for number in query.shape)
    if batch != 1:
        raise UserError("the encoder works on several pictures at once, which the engine's attention op cannot")
    inputs = [transpose(tracer, tracer.value(item), (0, 2, 1, 3)) for item in (query, key, value)]
    number = sum(node.op == "FusedAttention" for node in tracer.graph.nodes)
    result = tracer.emit(
        "FusedAttention",
        [*inputs, tracer.value(mask)],
        (1, count, heads * size),
        domain=CUSTOM_DOMAIN,
        name=f"/tower.{number}/attention",
        layer_index=number,
        kv_cache=0,
        output_dim=heads * size,
    )
    return tracer.tensor(reshape(tracer, result, (1, count, heads, size)))

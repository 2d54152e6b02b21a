"""The placeholder of the engine's LinearAttention op, which keeps a layer's state from token to token itself.

What the op computes is in MNN's source/backend/cpu/CPULinearAttention.cpp, tag 3.6.1. It knows two kinds:

* `gated_delta_rule`: a causal depthwise convolution over all columns and SiLU; the columns are q, k and v one after the
  other; q and k normalised to length 1 (1e-6 under the root), q divided by √head_k_dim; then, head by head, the state
  [head_k_dim, head_v_dim] times exp(gate), and beta of the difference between v and what it holds for k written to k.
* `short_conv`: the columns are B, C and x one after the other, and the result C · convolution(B · x).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pipeline.errors import UserError
from pipeline.graph.ir import CUSTOM_DOMAIN, Graph, Value
from pipeline.graph.tracer import Tracer

OPERATOR = "LinearAttention"


@dataclass(frozen=True)
class Recurrence:
    """kind: the engine's attn_type. Numbers of heads and their sizes are the op's parameters of the same names."""

    kind: str
    num_k_heads: int
    num_v_heads: int
    head_k_dim: int
    head_v_dim: int
    use_qk_l2norm: bool = False


def emit_recurrence(
    tracer: Tracer, columns: Value, gate: Value, beta: Value, kernel: torch.Tensor, layer: int, shape: Recurrence
) -> Value:
    """columns float32 [1, D, sequence], gate (the decay's logarithm) and beta [1, sequence, num_v_heads] →
    [1, sequence, num_v_heads, head_v_dim].

    kernel: the convolution's true values, float32 [channels, 1, width], the last of them for the token itself.
    """
    length = columns.shape[2]
    return tracer.emit(
        OPERATOR,
        [columns, gate, beta, tracer.value(kernel)],
        (1, length, shape.num_v_heads, shape.head_v_dim),
        domain=CUSTOM_DOMAIN,
        name=f"/layers.{layer}/recurrence",
        attn_type=shape.kind,
        num_k_heads=shape.num_k_heads,
        num_v_heads=shape.num_v_heads,
        head_k_dim=shape.head_k_dim,
        head_v_dim=shape.head_v_dim,
        use_qk_l2norm=int(shape.use_qk_l2norm),
    )


def is_recurrent(graph: Graph) -> bool:
    """True if any layer remembers earlier tokens by a state that cannot be taken back token by token."""
    return any(node.op == OPERATOR for node in graph.nodes)


def layer_number(module: torch.nn.Module) -> int:
    """The module's own layer number. UserError if it says none."""
    layer = getattr(module, "layer_idx", None)
    if layer is None:
        raise UserError(f"{type(module).__name__} does not say which layer it is (layer_idx)")
    return int(layer)


def refuse_mask(module: torch.nn.Module, mask: object) -> None:
    """UserError for a mask over tokens: the engine's op takes them all."""
    if mask is not None:
        raise UserError(f"{type(module).__name__} is given a mask, for which the engine's op has no place")

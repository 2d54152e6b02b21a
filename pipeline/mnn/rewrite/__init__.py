"""Placeholders (`Extra` ops) → MNN ops. One file per kind; a file's rewriter is registered in `REWRITERS` below."""

from __future__ import annotations

from collections.abc import Callable

from pipeline.mnn.rewrite.attention import rewrite_attention
from pipeline.mnn.rewrite.graph import Json, Scope
from pipeline.mnn.rewrite.linear import rewrite_linear
from pipeline.mnn.rewrite.moe import rewrite_moe
from pipeline.mnn.rewrite.recurrence import rewrite_recurrence
from pipeline.mnn.rewrite.rope import rewrite_rope
from pipeline.mnn.rewrite.table import rewrite_table

# placeholder's ONNX op type → function(its operator, its scope) → the operators that stand in its place
REWRITERS: dict[str, Callable[[Json, Scope], list[Json]]] = {
    "FakeLinear": rewrite_linear,
    "FusedAttention": rewrite_attention,
    "FusedRoPE": rewrite_rope,
    "LinearAttention": rewrite_recurrence,
    "MoE": rewrite_moe,
    "Table": rewrite_table,
}

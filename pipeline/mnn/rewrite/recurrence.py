"""LinearAttention → the engine's op of that name, which keeps the layer's state itself."""

from __future__ import annotations

from pipeline.mnn.rewrite.graph import Json, Scope, attribute, node

_SIZES = ("attn_type", "num_k_heads", "num_v_heads", "head_k_dim", "head_v_dim")


def rewrite_recurrence(operator: Json, scope: Scope) -> list[Json]:
    """Inputs: columns, gate, beta, kernel. Attributes: name and the fields of LinearAttentionParam."""
    main: Json = {key: attribute(operator, key) for key in _SIZES}
    main["use_qk_l2norm"] = bool(attribute(operator, "use_qk_l2norm"))
    name = scope.prefix + attribute(operator, "name")
    inputs, outputs = operator["inputIndexes"], operator["outputIndexes"]
    return [node(name, "LinearAttention", inputs, outputs, "LinearAttentionParam", main)]

"""FusedAttention → the engine's Attention op, which keeps the KV cache itself."""

from __future__ import annotations

from pipeline.mnn.rewrite.graph import Json, Scope, attribute, attributes, node


def rewrite_attention(operator: Json, scope: Scope) -> list[Json]:
    """Inputs q, k, v, mask and, for models with attention sinks, [heads]. Attributes: name, layer_index."""
    values = attributes(operator)
    main = {
        "kv_cache": bool(values.get("kv_cache", 1)),
        "layer_index": attribute(operator, "layer_index"),
        "kv_shared_layer_index": values.get("kv_shared_layer_index", -1),
    }
    name = scope.prefix + attribute(operator, "name")
    return [node(name, "Attention", operator["inputIndexes"], operator["outputIndexes"], "AttentionParam", main)]

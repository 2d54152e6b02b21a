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
    inputs, outputs = operator["inputIndexes"], operator["outputIndexes"]
    if _feeds_an_adapter(outputs[0], scope):
        main["output_c4"] = True
        scope.packed.add(outputs[0])
    return [node(name, "Attention", inputs, outputs, "AttentionParam", main)]


def _feeds_an_adapter(tensor: int, scope: Scope) -> bool:
    """True if only linears read the attention's output and one of them has a split LoRA: it is then packed here.

    The C4 pass packs it for one reader only; unpacked, behind a RoPE op, it is labelled NHWC, and the linears'
    conversions would turn it round. The pass accepts a packed one if convolutions read it and nothing else.
    """
    readers = [operator for operator in scope.operators if tensor in operator.get("inputIndexes", [])]
    if not all(reader["type"] == "Extra" and reader["main"].get("type") == "FakeLinear" for reader in readers):
        return False
    return any(scope.prefix + attribute(reader, "name") in scope.adapter for reader in readers)

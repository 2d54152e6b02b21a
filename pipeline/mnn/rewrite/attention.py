"""FusedAttention → the engine's Attention op, which keeps the KV cache itself."""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.errors import StageFailed
from pipeline.mnn.rewrite.graph import Json, Scope, attribute, attributes, node


def rewrite_attention(operator: Json, scope: Scope) -> list[Json]:
    """Inputs q, k, v, mask and, for models with attention sinks, [heads]. Attributes: name, layer_index.

    Raises StageFailed for a split LoRA where the converter cannot fuse it.
    """
    values = attributes(operator)
    main = {
        "kv_cache": bool(values.get("kv_cache", 1)),
        "layer_index": attribute(operator, "layer_index"),
        "kv_shared_layer_index": values.get("kv_shared_layer_index", -1),
    }
    name = scope.prefix + attribute(operator, "name")
    inputs, outputs = operator["inputIndexes"], operator["outputIndexes"]
    _refuse_adapted_gate(outputs[0], scope)
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
    if not all(map(_is_linear, readers)):
        return False
    return any(scope.prefix + attribute(reader, "name") in scope.adapter for reader in readers)


def _refuse_adapted_gate(tensor: int, scope: Scope) -> None:
    """Where a gate is multiplied onto the attention's output (Qwen3-Next, Qwen3.5, AFMoE) the C4 pass wants the gate's
    linear before it and the output's behind it as they are: with an adapter at either, the engine dies of a shape."""
    for product in (one for one in scope.operators if tensor in one.get("inputIndexes", [])):
        if product["type"] != "BinaryOp":
            continue
        gates = [other for other in product["inputIndexes"] if other != tensor]
        linears = [*(_maker(gate, scope) for gate in gates), *_readers(product["outputIndexes"][0], scope)]
        for name in (scope.prefix + attribute(linear, "name") for linear in linears if linear is not None):
            if name in scope.adapter:
                raise StageFailed(
                    f"the adapter changes {name}, which stands at a gated attention: the engine's converter cannot "
                    "run it beside the base",
                    "use adapter=merge",
                )


def _maker(tensor: int, scope: Scope) -> Json | None:
    """The linear that made `tensor`, one-input operators aside."""
    operator = scope.producer(tensor)
    while operator is not None and operator["type"] in ("Reshape", "UnaryOp"):
        operator = scope.producer(operator["inputIndexes"][0])
    return operator if operator is not None and _is_linear(operator) else None


def _readers(tensor: int, scope: Scope) -> Iterator[Json]:
    """Linears that read `tensor`, reshapes aside."""
    for reader in (one for one in scope.operators if tensor in one.get("inputIndexes", [])):
        if reader["type"] == "Reshape":
            yield from _readers(reader["outputIndexes"][0], scope)
        elif _is_linear(reader):
            yield reader


def _is_linear(operator: Json) -> bool:
    return bool(operator["type"] == "Extra" and operator["main"].get("type") == "FakeLinear")

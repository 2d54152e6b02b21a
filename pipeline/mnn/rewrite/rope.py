"""FusedRoPE → the engine's RoPE op, which can also take over the per-head RMSNorm of q and k that stands before it."""

from __future__ import annotations

from pipeline.mnn.rewrite.graph import Json, Scope, attribute, node

_SIZES = ("rope_cut_head_dim", "num_head", "kv_num_head", "head_dim")


def rewrite_rope(operator: Json, scope: Scope) -> list[Json]:
    """Inputs q, k, cos, sin; outputs the rotated q and k. Attributes: name and the four sizes of RoPEParam."""
    main: Json = {key: attribute(operator, key) for key in _SIZES}
    inputs = list(operator["inputIndexes"][:4])
    for position, key in enumerate(("q_norm", "k_norm")):
        norm = _absorbable_norm(inputs[position], main["head_dim"], scope)
        if norm is not None:
            main[key] = {
                "axis": [-1],
                "epsilon": norm["main"]["epsilon"],
                "gamma": norm["main"]["gamma"],
                "useRMSNorm": True,
            }
            inputs[position] = norm["inputIndexes"][0]
            scope.dead.add(id(norm))
    name = scope.prefix + attribute(operator, "name")
    return [node(name, "RoPE", inputs, operator["outputIndexes"], "RoPEParam", main)]


def _absorbable_norm(tensor: int, head_dim: int, scope: Scope) -> Json | None:
    """The RMSNorm over head_dim that writes `tensor`, if nothing but this RoPE reads it."""
    norm = scope.producer(tensor)
    if norm is None or norm["type"] != "LayerNorm" or not scope.only_consumer(tensor):
        return None
    main = norm["main"]
    fits = main.get("useRMSNorm") and len(main.get("gamma", [])) == head_dim and not any(main.get("beta", []))
    return norm if fits else None

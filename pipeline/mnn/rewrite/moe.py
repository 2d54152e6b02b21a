"""MoE → the engine's MoE op and one subgraph per expert, named /expert/<layer>_<number>.

The skeleton holds an expert's graph once, as a template; every expert is a copy with its own weights.
"""

from __future__ import annotations

from pipeline.errors import StageFailed
from pipeline.mnn.rewrite.graph import Json, Scope, attribute

_ENGINE_KEYS = ("num_experts", "top_k", "layer_id")


def rewrite_moe(operator: Json, scope: Scope) -> list[Json]:
    """Inputs hidden [rows, hidden], routing weights [rows, top_k], selected experts int32 [rows, top_k].

    Attributes: name, num_experts, top_k, layer_id, expert (the template). The linears of expert j are the template's
    with "<name>.<j>." before their names.
    """
    if scope.add_expert is None:
        raise StageFailed("link: a MoE placeholder inside an expert")
    name, template, layer = (attribute(operator, key) for key in ("name", "expert", "layer_id"))
    for index in range(attribute(operator, "num_experts")):
        scope.add_expert(template, f"/expert/{layer}_{index}", f"{name}.{index}.")
    main = {"attr": [entry for entry in operator["main"]["attr"] if entry["key"] in _ENGINE_KEYS]}
    return [{**operator, "type": "MoE", "main": main}]

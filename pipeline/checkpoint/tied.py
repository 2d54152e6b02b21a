"""Whether a product's embedding rows are its lm_head's, or a table of their own: one decision for every stage."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pipeline.errors import UserError

# The engine decodes embedding rows of 4, 8 and 16 bits only (MNN: diskembedding.cpp takes all else for 4).
TIED_BITS = (4, 8, 16)


def lm_head_bits(quant: Mapping[str, Any], name: str) -> int:
    """Bits of the linear `name` (the lm_head) in a recipe's `quant`: a matching rule, else lm_bits, else bits."""
    for rule in quant.get("rules") or ():
        if re.search(rule["pattern"], name):
            if rule.get("keep"):
                return 16
            if rule.get("bits") is not None:
                return int(rule["bits"])
            break
    lm_bits = quant.get("lm_bits")
    return int(quant.get("bits", 4) if lm_bits is None else lm_bits)


def why_not_tied(layout: Mapping[str, Any], quant: Mapping[str, Any]) -> str:
    """The reason why the embedding cannot be read from the lm_head's weights, or "" if it can."""
    if layout["embedding"].get("markers"):
        return "the table's rows carry further columns (for the encoder, for token types), which the lm_head's have not"
    if not layout.get("tied"):
        return "the model has an lm_head of its own, not tied to the embedding"
    head = next((linear for linear in layout["linears"] if linear["name"] == layout["lm_head"]), None)
    if head is None:
        return f"layout.json has no linear {layout['lm_head']}"
    wanted = (layout["embedding"]["rows"], layout["embedding"]["columns"])
    if (head["out_features"], head["in_features"]) != wanted:
        return f"the lm_head is {head['out_features']}×{head['in_features']}, the embedding {wanted[0]}×{wanted[1]}"
    bits = 16 if head.get("keep") else lm_head_bits(quant, layout["lm_head"])
    if bits not in TIED_BITS:
        return f"the engine reads embedding rows of 4, 8 or 16 bits, and the lm_head has {bits}"
    return ""


def embedding_mode(recipe: Mapping[str, Any], layout: Mapping[str, Any]) -> str:
    """ "tied" or "separate", from recipe.embedding.mode, recipe.quant and layout.json.

    UserError when `embedding.mode=tied` is asked for and cannot be.
    """
    mode = str((recipe.get("embedding") or {}).get("mode") or "auto")
    if mode == "separate":
        return mode
    if mode not in ("auto", "tied"):
        raise UserError(f"embedding.mode={mode} is not known", "use auto, tied or separate")
    reason = why_not_tied(layout, recipe.get("quant") or {})
    if reason and mode == "tied":
        raise UserError(f"embedding.mode=tied cannot be: {reason}", "use embedding.mode=auto, or quant.lm_bits=8")
    return "separate" if reason else "tied"

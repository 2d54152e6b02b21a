"""`tie_embeddings`: where the engine finds the embedding's rows when they are not a plain bf16 table.

Source: llmconfig.hpp and diskembedding.cpp of the engine's tags 3.4.0 to 3.6.1. Codes begin after the header that the
linear's blob carries; scales follow the codes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.errors import StageFailed
from pipeline.runtime.key import version

_NAMES = ("weight_offset", "alpha_offset", "alpha_size", "quant_bit", "quant_block")


def tied_rows(
    layout: Mapping[str, Any], weights: Mapping[str, Any], embedding: Mapping[str, Any], engine: str, form: str
) -> dict[str, Any] | list[int] | None:
    """The value of tie_embeddings as `form` "dict" or "list" (five numbers), or None for a bf16 table.

    Raises StageFailed if engine version `engine` cannot read such rows.
    """
    place = _place(layout, weights, embedding)
    if place is None:
        return None
    if form == "dict":
        if version(engine) < (3, 6, 0):
            raise StageFailed(f"engine {engine} reads tie_embeddings as a list only", "set target.tie_embeddings=list")
        return place
    if place["alpha_size"] and place["alpha_dtype"] != "fp32":
        raise StageFailed(f"engine {engine} reads an embedding's scales in fp32 only", "set quant.scale_bits=32")
    return [place[name] for name in _NAMES]


def _place(
    layout: Mapping[str, Any], weights: Mapping[str, Any], embedding: Mapping[str, Any]
) -> dict[str, Any] | None:
    if embedding["mode"] == "tied":
        return _in_weights(weights["linears"][layout["lm_head"]])
    if embedding["bits"] == 16:
        return None
    keys = {"quant_bit": embedding["bits"], "quant_block": embedding["block"], "alpha_dtype": embedding["alpha_dtype"]}
    return {name: embedding[name] for name in _NAMES[:3]} | keys


def _in_weights(head: Mapping[str, Any]) -> dict[str, Any]:
    """The lm_head's rows in llm.mnn.weight: its `external` is [offset, codes with header, scales, bias, 0]."""
    offset, codes, scales = head["external"][:3]
    return {
        "weight_offset": offset + head["header_bytes"],
        "alpha_offset": offset + codes,
        "alpha_size": scales,
        "quant_bit": head["bits"],
        "quant_block": head["block"],
        "alpha_dtype": "fp16" if head["scale_bits"] == 16 else "fp32",
    }

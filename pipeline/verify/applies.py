"""Which recipes get which proof."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def proves_text(recipe: Mapping[str, Any]) -> bool:
    """A model that writes: logits, answers, templates."""
    return bool(recipe["verify"]["mode"] != "off" and _task(recipe) == "text")


def proves_sentences(recipe: Mapping[str, Any]) -> bool:
    """An embedding model: vectors and their ranking."""
    return bool(recipe["verify"]["mode"] != "off" and _task(recipe) == "embedding")


def proves_pairs(recipe: Mapping[str, Any]) -> bool:
    """A cross-encoder: scores and their ranking."""
    return bool(recipe["verify"]["mode"] != "off" and reranks(recipe))


def reranks(recipe: Mapping[str, Any]) -> bool:
    """A cross-encoder, whatever its proof."""
    return _task(recipe) == "rerank"


def _task(recipe: Mapping[str, Any]) -> str:
    return str((recipe.get("model") or {}).get("task") or "text")

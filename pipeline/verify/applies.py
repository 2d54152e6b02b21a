"""Which recipes get which proof."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def proves_text(recipe: Mapping[str, Any]) -> bool:
    """A model that writes: logits, answers, templates."""
    return bool(recipe["verify"]["mode"] != "off" and not proves_sentences(recipe))


def proves_sentences(recipe: Mapping[str, Any]) -> bool:
    """An embedding model: vectors and their ranking."""
    task = (recipe.get("model") or {}).get("task")
    return bool(recipe["verify"]["mode"] != "off" and task == "embedding")

"""Which recipes build an encoder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any


def wants(kind: str) -> Callable[[Mapping[str, Any]], bool]:
    """Whether a recipe builds the encoder `kind`: the model has one, and the recipe does not leave it out."""
    return lambda recipe: kind in (recipe["model"].get("modalities") or []) and recipe[kind]["mode"] != "off"


def proves(kind: str) -> Callable[[Mapping[str, Any]], bool]:
    """Whether a recipe builds the encoder `kind` and verifies its product."""
    return lambda recipe: recipe["verify"]["mode"] != "off" and wants(kind)(recipe)

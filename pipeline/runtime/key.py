"""What a key of config.json or llm_config.json is: type, default, unit, meaning, bounds, first engine that reads it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

File = Literal["config", "llm_config"]
Kind = type

OLDEST = "3.4.0"
"""The oldest wheel that has the language model module at all; `since` of a key that was there from the start."""


@dataclass(frozen=True)
class Key:
    """One key.

    type: int, float, bool, str, list or dict, as JSON has them (an int is welcome where a float is asked).
    default: what engine 3.6.1 uses when the key is absent. file: where a product carries it (the engine reads both
    files, and llm_config.json wins). minimum, maximum: bounds, both allowed. choices: the only values. item: type of a
    list's elements. path: the value is a file name below the product's folder. since: first engine that reads it.
    """

    name: str
    type: Kind
    default: Any
    meaning: str
    unit: str = ""
    file: File = "config"
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[Any, ...] = ()
    item: Kind | None = None
    length: int | None = None
    path: bool = False
    since: str = OLDEST


@dataclass(frozen=True)
class Retired:
    """A name that older pages or exporters used.

    successor: the key that took its place, or "" if nothing did. values: old value → new value; empty means unchanged.
    reason: why it is refused, or what the mapping means.
    """

    name: str
    reason: str
    successor: str = ""
    values: tuple[tuple[Any, Any], ...] = ()


def version(text: str) -> tuple[int, ...]:
    """"3.6.1" → (3, 6, 1), for comparison."""
    return tuple(int(part) for part in text.split("."))

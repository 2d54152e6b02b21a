"""Check a run-time configuration before native code sees it. The engine ignores what it does not know; we do not."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pipeline.errors import UserError, nearest
from pipeline.runtime.key import Key, version
from pipeline.runtime.keys import KEYS
from pipeline.runtime.retired import RETIRED

NEWEST = "3.6.1"

_TYPES = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    list: "a list",
    dict: "an object",
}

_MLLM = ("backend_type", "thread_num", "precision", "memory", "power")


def check(values: Mapping[str, Any], engine: str = NEWEST) -> list[str]:
    """One line for each thing that is wrong with `values` for engine version `engine`; [] if all is well."""
    return [problem for name, value in values.items() for problem in check_key(name, value, engine)]


def check_key(name: str, value: Any, engine: str = NEWEST) -> list[str]:
    """What is wrong with one key; a retired name is wrong even if something took its place (see `modernised`)."""
    if name in RETIRED:
        return [_retired(name)]
    if name not in KEYS:
        return [f"{name}: the engine reads no such key.{nearest(name, KEYS)}"]
    key = KEYS[name]
    if version(key.since) > version(engine):
        return [f"{name}: engine {engine} does not read it (from {key.since} on)"]
    return check_value(key, value)


def check_value(key: Key, value: Any) -> list[str]:
    """What is wrong with `value` for `key`: type, bounds, choices, elements."""
    if key.name == "tie_embeddings" and isinstance(value, list):
        return [] if _is_tie_list(value) else ["tie_embeddings: a list must be five or six whole numbers from 0 on"]
    if not _is_a(key.type, value):
        return [f"{key.name} must be {_TYPES[key.type]}, not {value!r}"]
    if key.type is list:
        return _check_list(key, value)
    if key.type is dict:
        return _check_dict(key, value)
    return _check_scalar(key, value)


def _is_a(kind: type, value: Any) -> bool:
    if kind is float:
        return type(value) in (int, float) and math.isfinite(value)
    return type(value) is kind


def _check_scalar(key: Key, value: Any) -> list[str]:
    if key.choices and value not in key.choices:
        known = ", ".join(str(choice) or "(empty)" for choice in key.choices)
        return [f"{key.name} must be one of {known}, not {value!r}"]
    if key.minimum is not None and value < key.minimum:
        return [f"{key.name} must be at least {key.minimum:g}{_unit(key)}, not {value}"]
    if key.maximum is not None and value > key.maximum:
        return [f"{key.name} must be at most {key.maximum:g}{_unit(key)}, not {value}"]
    if key.path and isinstance(value, str):
        return _check_path(key.name, value)
    return []


def _unit(key: Key) -> str:
    return f" {key.unit}" if key.unit else ""


def _check_path(name: str, value: str) -> list[str]:
    """A file name glued to base_dir: it must stay below it. Backslashes separate folders for the engine on Windows."""
    parts = value.replace("\\", "/").split("/")
    if value.startswith(("/", "\\", "~")) or ".." in parts or ":" in parts[0] or "\0" in value:
        return [f"{name}: {value!r} leaves the product's folder"]
    return []


def _check_list(key: Key, value: list[Any]) -> list[str]:
    if key.length is not None and len(value) != key.length:
        return [f"{key.name} must have {key.length} elements, not {len(value)}"]
    for element in value:
        if key.item is not None and not _is_a(key.item, element):
            return [f"{key.name}: {element!r} is not {_TYPES[key.item]}"]
        if key.choices and element not in key.choices:
            return [f"{key.name}: {element!r} is none of {', '.join(key.choices)}"]
        if key.minimum is not None and element < key.minimum:
            return [f"{key.name}: {element!r} is below {key.minimum:g}"]
    return []


def _check_dict(key: Key, value: dict[str, Any]) -> list[str]:
    if key.name == "mllm":
        return _check_mllm(value)
    if key.name == "jinja":
        return _check_jinja(value)
    if key.name == "tie_embeddings":
        return _check_tie(value)
    if key.name == "logit_bias":
        return _check_bias(value)
    return []


def _check_mllm(value: dict[str, Any]) -> list[str]:
    stray = [f"mllm.{name}: the engine reads only {', '.join(_MLLM)} there" for name in value if name not in _MLLM]
    return stray or [f"mllm.{line}" for name, inner in value.items() for line in check_value(KEYS[name], inner)]


def _check_jinja(value: dict[str, Any]) -> list[str]:
    kinds = {"chat_template": str, "eos": str, "bos": str, "context": dict}
    stray = [f"jinja.{name}: the engine reads only {', '.join(kinds)} there" for name in value if name not in kinds]
    wrong = [
        f"jinja.{name} must be {_TYPES[kind]}, not {value[name]!r}"
        for name, kind in kinds.items()
        if name in value and type(value[name]) is not kind
    ]
    return stray or wrong


def _check_tie(value: dict[str, Any]) -> list[str]:
    """Only 4, 8 and 16 bits can be decoded as an embedding; any other width is read as 4 and answers nonsense."""
    numbers = ("weight_offset", "alpha_offset", "alpha_size", "quant_bit", "quant_block")
    for name in value:
        if name not in (*numbers, "alpha_dtype"):
            return [f"tie_embeddings.{name}: the engine reads no such key.{nearest(name, (*numbers, 'alpha_dtype'))}"]
    for name in numbers:
        if type(value.get(name)) is not int or value[name] < 0:
            return [f"tie_embeddings.{name} must be a whole number, not negative, not {value.get(name)!r}"]
    if value["quant_bit"] not in (4, 8, 16):
        return [f"tie_embeddings.quant_bit must be 4, 8 or 16, not {value['quant_bit']}"]
    if value.get("alpha_dtype", "fp32") not in ("fp16", "fp32"):
        return [f"tie_embeddings.alpha_dtype must be fp16 or fp32, not {value['alpha_dtype']!r}"]
    return []


def _is_tie_list(value: list[Any]) -> bool:
    return len(value) in (5, 6) and all(type(number) is int and number >= 0 for number in value)


def _check_bias(value: dict[str, Any]) -> list[str]:
    for token, bias in value.items():
        if not token.isdecimal():
            return [f"logit_bias: {token!r} is not a token id"]
        if not _is_a(float, bias):
            return [f"logit_bias.{token} must be a number, not {bias!r}"]
    return []


def _retired(name: str) -> str:
    retired = RETIRED[name]
    if retired.successor:
        return f"{name} is an old name: write {retired.successor} ({retired.reason})"
    return f"{name}: {retired.reason}"


def modernised(values: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """(`values` with old names mapped to their successors, one note for each). Raises UserError for a dead name."""
    fresh: dict[str, Any] = {}
    notes: list[str] = []
    for name, value in values.items():
        retired = RETIRED.get(name)
        if retired is None:
            fresh[name] = value
            continue
        new = _successor_value(retired.successor, dict(retired.values), name, value)
        if fresh.get(retired.successor, values.get(retired.successor, new)) != new:
            raise UserError(f"{name}={value} and {retired.successor} contradict", f"keep {retired.successor}")
        fresh[retired.successor] = new
        notes.append(f"{name}={value} became {retired.successor}={new}")
    return fresh, notes


def _successor_value(successor: str, table: dict[Any, Any], name: str, value: Any) -> Any:
    if not successor:
        raise UserError(_retired(name), f"remove {name}")
    if isinstance(value, bool) or (table and value not in table):
        known = ", ".join(f"{old} → {new}" for old, new in table.items())
        raise UserError(f"{name}={value} has no successor in {successor}", f"write {successor}= instead ({known})")
    return table.get(value, value)


def refuse(values: Mapping[str, Any], where: str, engine: str = NEWEST) -> None:
    """Raises UserError with the first problem of `values`, as `where.<key>`."""
    problems = check(values, engine)
    if problems:
        raise UserError(f"{where}.{problems[0]}", "the keys are listed in docs/runtime.md")

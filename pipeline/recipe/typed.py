"""Plain data → dataclasses, checked strictly: an unknown key or a value of another type is one line for a person.

Nothing is converted but int → float. A string stays the text that was written: YAML or the override grammar would read
the commit `123e4` as a number, and a silent `str()` of that would name another commit.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, asdict, fields, is_dataclass
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from pipeline.errors import UserError, nearest

T = TypeVar("T")

_NAMES = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}


@functools.cache
def hints(cls: type) -> dict[str, Any]:
    """Field name → type of the dataclass `cls`, with string annotations resolved."""
    return get_type_hints(cls)


def build(cls: type[T], data: Any, where: str = "") -> T:
    """An instance of the dataclass `cls` from a plain mapping; missing keys take the dataclass's defaults.

    where: dotted path of `data` in the recipe, for messages. Raises UserError.
    """
    if not isinstance(data, Mapping):
        raise UserError(f"{where or 'the recipe'} must be a mapping of keys, not {data!r}")
    known = hints(cls)  # type: ignore[arg-type]
    for key in data:
        if key not in known:
            name = join(where, str(key))
            raise UserError(f"unknown key '{name}'.{nearest(str(key), known)}", f"known: {', '.join(known)}")
    return cls(**{key: convert(known[key], value, join(where, key)) for key, value in data.items()})


def convert(kind: Any, value: Any, where: str) -> Any:
    """`value` as a value of type `kind` (a scalar, dataclass, list, dict or union with None). Raises UserError."""
    origin = get_origin(kind)
    if kind is Any:
        return value
    if origin in (Union, types.UnionType):
        return None if value is None else convert(_without_none(kind), value, where)
    if origin is list:
        return _list(kind, value, where)
    if origin is dict:
        return _dict(kind, value, where)
    if is_dataclass(kind):
        return build(kind, value, where)  # type: ignore[arg-type]
    return _scalar(kind, value, where)


def _without_none(kind: Any) -> Any:
    return next(member for member in get_args(kind) if member is not type(None))


def _list(kind: Any, value: Any, where: str) -> list[Any]:
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise UserError(f"{where} must be a list, not {value!r}")
    (item,) = get_args(kind)
    return [convert(item, element, f"{where}[{index}]") for index, element in enumerate(value)]


def _dict(kind: Any, value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise UserError(f"{where} must be a mapping of keys, not {value!r}")
    _, item = get_args(kind)
    return {str(key): convert(item, element, join(where, str(key))) for key, element in value.items()}


def _scalar(kind: type, value: Any, where: str) -> Any:
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is kind:
        return value
    hint = f"quote it: {where}='{value}'" if kind is str and value is not None else ""
    raise UserError(f"{where} must be {_NAMES[kind]}, not {_shown(value)}", hint)


def _shown(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return str(value).lower().replace("none", "null")
    return repr(value)


def join(parent: str, key: str) -> str:
    """Dotted path of `key` under `parent` ("" at the top)."""
    return f"{parent}.{key}" if parent else key


def plain(instance: Any) -> dict[str, Any]:
    """The dataclass instance as nested plain dicts and lists, in field order (JSON-able)."""
    return asdict(instance)


def default_of(spec: Field[Any]) -> Any:
    """A dataclass field's default value."""
    if spec.default_factory is not MISSING:
        return spec.default_factory()
    return spec.default


def type_at(cls: type, path: str) -> Any:
    """The declared type at a dotted path below the dataclass `cls`. Any below a free-form dict; KeyError if unknown."""
    kind: Any = cls
    for part in path.split("."):
        kind = _step(kind, part)
    return kind


def _step(kind: Any, part: str) -> Any:
    if kind is Any:
        return Any
    if get_origin(kind) in (Union, types.UnionType):
        return _step(_without_none(kind), part)
    if get_origin(kind) is dict:
        return get_args(kind)[1]
    if is_dataclass(kind):
        return hints(kind)[part]  # type: ignore[arg-type]
    raise KeyError(part)


def leaves(cls: type, prefix: str = "") -> list[str]:
    """Dotted paths of every key below the dataclass `cls`, in declaration order, parents before children."""
    found: list[str] = []
    for spec in fields(cls):
        path = join(prefix, spec.name)
        found.append(path)
        kind = hints(cls)[spec.name]
        if is_dataclass(kind):
            found.extend(leaves(kind, path))  # type: ignore[arg-type]
    return found

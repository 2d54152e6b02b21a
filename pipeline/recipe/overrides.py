"""`key=value` from a command line → overrides that Hydra reads as they were meant. No hydra is imported here.

Three things are done before Hydra sees the text. Keys are checked against the schema (Hydra would complain about the
defaults list first, and doit swallows a mistyped key in silence). Values of text fields are quoted: the grammar reads
the bare commit `123e4` as the number 1230000.0 and cannot read most paths. Keys get Hydra's `++`, since the schema, not
the YAML that happens to be composed, decides which keys exist.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from pipeline.errors import UserError, nearest
from pipeline.recipe import typed
from pipeline.recipe.conf import GROUPS
from pipeline.recipe.schema import Recipe
from pipeline.runtime.keys import KEYS

_KEY = re.compile(r"(?P<prefix>\+\+|\+|~)?(?P<key>[^=]*)")
_SWEEP = re.compile(r"(choice|shuffle|sort)\((?P<inner>.*)\)$", re.DOTALL)
_LITERAL = re.compile(r"glob\(|range\(|interval\(|\$\{")
_QUOTED = re.compile(r"""'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*\"""")


def prepare(overrides: Sequence[str]) -> list[str]:
    """The overrides, checked and rewritten for Hydra. Raises UserError for a key that no recipe has."""
    return [_prepare(text) for text in overrides]


def split(override: str) -> tuple[str, str]:
    """(key without prefix, value) of one override."""
    key, _, value = override.partition("=")
    return key.lstrip("+~"), value


def _prepare(text: str) -> str:
    match = _KEY.match(text)
    assert match is not None  # the pattern matches the empty string
    prefix, key = match["prefix"] or "", match["key"].strip()
    if prefix == "~":
        raise UserError(f"'{text}': a key of a recipe cannot be deleted", f"give it a value: {key or 'key'}=…")
    if "=" not in text or not key:
        raise UserError(f"'{text}' is not of the form key=value")
    value = text.partition("=")[2]
    if key in GROUPS:
        return f"{key}={value}"
    kind = _kind(key)
    return f"++{key}={_quoted(value) if kind is str else value}"


def _kind(key: str) -> Any:
    """Declared type of the recipe key (for target.runtime.* that of the engine's key). Raises UserError if unknown."""
    runtime = key.removeprefix("target.runtime.")
    if runtime != key:
        return KEYS[runtime].type if runtime in KEYS else Any
    try:
        kind = typed.type_at(Recipe, key)
    except KeyError:
        raise _unknown(key) from None
    return kind


def _unknown(key: str) -> UserError:
    known = [*GROUPS, *(path for path in typed.leaves(Recipe) if path not in GROUPS)]
    same_leaf = [path for path in known if path.rpartition(".")[2] == key]
    hint = f" Did you mean '{same_leaf[0]}'?" if same_leaf else nearest(key, known)
    return UserError(f"unknown key '{key}'.{hint}", "the keys of a recipe are listed in README.md")


def _quoted(value: str) -> str:
    """`value` with each element of its sweep quoted, so that the grammar takes it as text."""
    sweep = _SWEEP.fullmatch(value)
    if sweep:
        inner = sweep["inner"]
        return f"{value[: sweep.start('inner')]}{_quoted(inner)})"
    return ",".join(_quote(element) for element in elements(value)) if value else ""


def elements(value: str) -> list[str]:
    """`value` cut at its commas, but for commas inside quotes."""
    parts = re.findall(r"""(?:'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*"|[^,])+""", value)
    return parts or [value]


def _quote(element: str) -> str:
    text = element.strip()
    if _QUOTED.fullmatch(text) or _LITERAL.match(text):
        return text
    return quote(text)


def quote(text: str) -> str:
    """`text` in single quotes of the override grammar, where only a quote, and backslashes before one, are escaped."""
    escaped = re.sub(r"(\\*)'", r"\1\1\\'", text)
    trailing = len(escaped) - len(escaped.rstrip("\\"))
    return f"'{escaped}{chr(92) * trailing}'"


def is_text(key: str) -> bool:
    """Whether the recipe key (without prefix) holds text."""
    return key not in GROUPS and _kind(key) is str

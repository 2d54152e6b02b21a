"""A product's name: `<model>-<quant>[-<adapter>][-<short hash of the other overrides>]`, or what `name=` says."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from pipeline.errors import UserError
from pipeline.recipe import adapter_paths
from pipeline.recipe.schema import Recipe

HASH_LENGTH = 6

# How a product is proved and where the store lies say nothing about its bytes; the groups below are in the name itself.
_SILENT = ("name", "verify", "cache")
_IN_NAME = ("model", "quant")

_ALLOWED = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")


def said_elsewhere(key: str) -> bool:
    """Whether an override of `key` can never change the name's hash."""
    return key in _IN_NAME or key.partition(".")[0] in _SILENT


def product_name(recipe: Recipe, difference: Mapping[str, Any]) -> str:
    """The name for a recipe whose overrides changed `difference` (dotted path → value; {} if nothing)."""
    parts = [_model(recipe), slug(recipe.quant.name)]
    if recipe.adapter.mode != "none":
        adapters = [one.name or PurePath(one.folder).name for one in adapter_paths.parse(recipe.adapter.path)]
        parts.append(slug("-".join(filter(None, (recipe.adapter.mode, *adapters)))))
    if difference:
        parts.append(short_hash(difference))
    return "-".join(parts)


def _model(recipe: Recipe) -> str:
    """The model's name; a local folder is called by its own name, not "local"."""
    if recipe.model.hub == "local" and recipe.model.path:
        return slug(PurePath(recipe.model.path).name.removesuffix(".gguf")) or slug(recipe.model.name)
    return slug(recipe.model.name)


def slug(text: str) -> str:
    """`text` with everything but letters, digits, dot, underscore and dash replaced by a dash."""
    return re.sub(r"[^A-Za-z0-9._]+", "-", text).strip("-.")


def short_hash(difference: Mapping[str, Any]) -> str:
    """Six hexadecimal digits of sha256 over the canonical JSON of the changed keys."""
    text = json.dumps(difference, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(f"recipe-overrides:{text}".encode()).hexdigest()[:HASH_LENGTH]


def difference(config: Mapping[str, Any], baseline: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted path → value of every key in which `config` differs from `baseline` and that belongs in the hash."""
    ours, theirs = flatten(config), flatten(baseline)
    changed = {path: value for path, value in ours.items() if theirs.get(path, _ABSENT) != value}
    changed.update({path: None for path in theirs if path not in ours})
    return {path: value for path, value in changed.items() if path.partition(".")[0] not in _SILENT}


_ABSENT = object()


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mapping → dotted path → leaf; lists are leaves."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        path = f"{prefix}.{key}" if prefix else str(key)
        flat.update(flatten(value, path) if isinstance(value, Mapping) and value else {path: value})
    return flat


def refuse_bad_name(name: str) -> None:
    """Raises UserError for a name that is no folder of its own under artifacts/ ("..", "a/b", ".cache", "a=b")."""
    if not _ALLOWED.fullmatch(name):
        raise UserError(
            f"name={name} cannot name a product's folder",
            "use letters, digits, '.', '_', '+' and '-', beginning with a letter or a digit",
        )


def refuse_collisions(named: Sequence[tuple[str, Sequence[str]]]) -> None:
    """Raises UserError if two recipes (name, overrides) of one request would write the same folder."""
    seen: dict[str, Sequence[str]] = {}
    for name, overrides in named:
        folded = name.casefold()  # some file systems do not tell a from A
        if folded in seen:
            first, second = " ".join(seen[folded]), " ".join(overrides)
            raise UserError(
                f"two recipes would both write artifacts/{name}: [{first}] and [{second}]",
                "leave name= out of the sweep",
            )
        seen[folded] = overrides

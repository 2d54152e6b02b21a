"""What a stage sees of the recipe: the paths that it declares, and an error for any other."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pipeline.errors import StageFailed


class UndeclaredConfig(StageFailed):
    """A stage asked for a part of the recipe that it does not declare, so that its action key would not know of it."""


class DeclaredConfig(dict[str, Any]):
    """The declared part of the recipe as nested dicts. Reading another key raises, also through `get` and `in`.

    Only the nodes on the way to a declared path are strict; a path's own value is plain data.
    """

    def __init__(self, values: Mapping[str, Any], path: str = "") -> None:
        super().__init__(values)
        self._path = path

    def __missing__(self, key: str) -> Any:
        where = f"{self._path}.{key}" if self._path else key
        raise UndeclaredConfig(
            f"the stage reads '{where}' of the recipe but does not declare it", "add it to STAGE.config"
        )

    def get(self, key: str, default: Any = None) -> Any:
        return self[key]

    def __contains__(self, key: object) -> bool:
        return super().__contains__(key) or bool(self.__missing__(str(key)))


def subset(recipe: Mapping[str, Any], paths: Iterable[str]) -> dict[str, Any]:
    """The part of `recipe` under the dotted `paths`, as nested dicts. Raises UndeclaredConfig for a wrong one."""
    chosen: dict[str, Any] = {}
    for path in sorted(paths):
        *parents, leaf = path.split(".")
        source: Any = recipe
        target = chosen
        for name in parents:
            source = _step(source, name, path)
            target = target.setdefault(name, {})
        target[leaf] = _step(source, leaf, path)
    return chosen


def strict(values: Mapping[str, Any], paths: Iterable[str], prefix: str = "") -> DeclaredConfig:
    """`values` (what `subset` made of `paths`), made to refuse other keys on the way to each path."""
    paths = tuple(paths)
    guarded = {
        key: strict(value, paths, where) if _is_parent(where, paths) else value
        for key, value in values.items()
        for where in [f"{prefix}.{key}" if prefix else key]
    }
    return DeclaredConfig(guarded, prefix)


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mapping → dotted path → leaf, for showing differences."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        where = f"{prefix}.{key}" if prefix else key
        if isinstance(value, Mapping) and value:
            flat.update(flatten(value, where))
        else:
            flat[where] = value
    return flat


def _is_parent(where: str, paths: tuple[str, ...]) -> bool:
    return where not in paths and any(path.startswith(f"{where}.") for path in paths)


def _step(source: Any, name: str, path: str) -> Any:
    if not isinstance(source, Mapping) or name not in source:
        raise UndeclaredConfig(f"no recipe has '{path}', which a stage declares", "correct STAGE.config")
    return source[name]

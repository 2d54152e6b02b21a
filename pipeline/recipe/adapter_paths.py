"""`adapter.path`: one folder, or several as `A+B`, each with a name and a weight of its own as `NAME=A@0.7`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath

from pipeline.errors import UserError

ONLY = "lora"
"""The name of a single split adapter that has none: MNN's own documentation calls the file lora.mnn."""
# Names of a product's other files: NAME.mnn and NAME.json must not be one of them.
TAKEN = frozenset({"llm", "config", "llm_config", "manifest", "tokenizer", "embedding"})
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class AdapterPath:
    """One adapter. name: "" where none was given; folder: as written; weight: what its difference is multiplied by."""

    folder: str
    name: str = ""
    weight: float = 1.0

    def __str__(self) -> str:
        name = f"{self.name}=" if self.name else ""
        return f"{name}{self.folder}" + (f"@{self.weight:g}" if self.weight != 1.0 else "")


def parse(text: str, start: Path | None = None) -> list[AdapterPath]:
    """The adapters of `adapter.path`, [] for "". A folder may have a plus, an at or an equals sign in its name: what
    is a folder as it stands (relative ones from `start`) is not taken apart. Raises UserError for a bad weight."""
    if not text:
        return []
    if _is_folder(text, start):
        return [AdapterPath(text)]
    return [_part(part, start) for part in text.split("+")]


def absolute(text: str, start: Path) -> str:
    """`adapter.path` with every folder absolute, `~` expanded."""
    return "+".join(str(replace(one, folder=_absolute(one.folder, start))) for one in parse(text, start))


def split_names(adapters: Sequence[AdapterPath]) -> list[str]:
    """File names (without ending) of split adapters: as given, else "lora" for a single one, else the folder's name.

    Raises UserError for a name that two adapters share, that is taken by another file, or that is no file's name.
    """
    names = [one.name or (ONLY if len(adapters) == 1 else PurePath(one.folder).name) for one in adapters]
    for name in names:
        if not _NAME.fullmatch(name):
            raise UserError(f"adapter.path: {name!r} cannot name a file", "write NAME=DIR with letters, digits, . _ -")
        if name.lower() in TAKEN:
            raise UserError(f"adapter.path: a product has a file {name} of its own", "write NAME=DIR")
        if [other.lower() for other in names].count(name.lower()) > 1:
            raise UserError(f"adapter.path: two adapters would be called {name}", "write NAME=DIR+NAME2=DIR2")
    return names


def _part(text: str, start: Path | None) -> AdapterPath:
    """`NAME=DIR@WEIGHT`, of which only DIR must be there."""
    name, equals, rest = text.partition("=")
    if equals and _NAME.fullmatch(name) and not _is_folder(text, start):
        return replace(_weighted(rest, start), name=name)
    return _weighted(text, start)


def _weighted(text: str, start: Path | None) -> AdapterPath:
    folder, _, weight = text.rpartition("@")
    if not folder or _is_folder(text, start):
        return AdapterPath(text)
    try:
        return AdapterPath(folder, weight=float(f"{float(weight):g}"))
    except ValueError as error:
        raise UserError(f"adapter.path: {weight!r} is no weight", "write A@0.7+B@0.3") from error


def _is_folder(text: str, start: Path | None) -> bool:
    path = Path(text).expanduser()
    return (path if start is None else start / path).is_dir()


def _absolute(folder: str, start: Path) -> str:
    import os.path

    return os.path.normpath(start / Path(folder).expanduser())

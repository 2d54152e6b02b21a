"""Where things lie. doit has changed into dodo.py's folder before any of this is asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from tasks.request import current, start_folder

ARTIFACTS = "artifacts"
STORE = ".cache"


def home() -> Path:
    """The folder of dodo.py."""
    return Path.cwd()


def artifacts() -> Path:
    """Where products lie."""
    return home() / ARTIFACTS


def store_folder() -> Path:
    """The store, from `cache.dir=` on the command line or its place beside the products; needs no recipe."""
    said = [text.partition("=")[2] for text in current().overrides if text.startswith("cache.dir=")]
    return start_folder() / Path(said[-1]).expanduser() if said and said[-1] else artifacts() / STORE


def store_of(recipes: Sequence[Mapping[str, Any]]) -> Path:
    """The one store of all recipes. Raises UserError if they name several."""
    folders = {str(recipe["cache"]["dir"] or artifacts() / STORE) for recipe in recipes}
    if len(folders) > 1:
        raise UserError(f"the recipes name {len(folders)} stores", "leave cache.dir out of the sweep")
    return Path(folders.pop())


def shown(path: Path) -> str:
    """A path as a person would type it here."""
    return str(path.relative_to(home())) if path.is_relative_to(home()) else str(path)

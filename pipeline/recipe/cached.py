"""Composed recipes kept in a file, so that a request that was made before needs neither hydra nor omegaconf.

Importing and running Hydra takes 0.3 s, most of what a build with nothing to do may take. An entry is valid while the
overrides, the current folder, every YAML under the configuration folders and our own code that turns them into recipes
are as they were (by path, size and modification time). No entry is written if a YAML or an override asks for something
outside (`${oc.env:…}` and other resolvers).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pipeline.recipe import modalities, paths, tasks, validate
from pipeline.recipe.compose import Composed, compose
from pipeline.recipe.conf import conf_dirs, stamp, yaml_files

KEPT = 64
_RESOLVER = re.compile(r"\$\{[^}]*:")
_HERE = Path(__file__).parent
_CODE = (_HERE, _HERE.parent / "runtime", _HERE.parent / "weights")


def compose_cached(overrides: Sequence[str], cache_dir: Path, cwd: Path | None = None) -> list[Composed]:
    """`compose`, through `cache_dir`; paths, and a local model's config.json, are checked on every call.

    A damaged entry is dropped and composed anew. Raises UserError as `compose` does.
    """
    start = cwd or Path.cwd()
    folders = conf_dirs(cwd=start)
    entry = cache_dir / f"{_key(overrides, folders, start)}.json"
    recipes = _load(entry)
    if recipes is None:
        recipes = compose(overrides, folders, start)
        if not any(_RESOLVER.search(text) for text in (*overrides, *_texts(folders))):
            _save(entry, recipes)
    for one in recipes:
        paths.refuse_missing(one.recipe)
        modalities.complete(one.config)
        tasks.complete(one.config)
        validate.validate_local(one.recipe)
    return recipes


def _key(overrides: Sequence[str], folders: Sequence[Path], cwd: Path) -> str:
    hydra = find_spec("hydra")  # its location and age stand for its version, which would take 80 ms to look up
    code = [Path(hydra.origin)] if hydra and hydra.origin else []
    code += [file for folder in _CODE for file in sorted(folder.glob("*.py"))]
    state = [list(overrides), str(cwd), [str(folder) for folder in folders], stamp([*yaml_files(folders), *code])]
    return hashlib.sha256(f"composed-recipes:{json.dumps(state)}".encode()).hexdigest()


def _texts(folders: Sequence[Path]) -> Iterator[str]:
    return (file.read_text("utf-8") for file in yaml_files(folders))


def _load(entry: Path) -> list[Composed] | None:
    """The entry's recipes, or None if there is none or it is not what we wrote."""
    try:
        return [_composed(one) for one in json.loads(entry.read_text("utf-8"))]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError):
        with contextlib.suppress(OSError):
            entry.unlink()
        return None


def _composed(data: dict[str, Any]) -> Composed:
    return Composed(data["config"], tuple(data["overrides"]), dict(data["choices"]), tuple(data["notes"]))


def _save(entry: Path, recipes: Sequence[Composed]) -> None:
    """Write the entry beside its name, then rename; keep the youngest KEPT. A full disk costs only time."""
    data = [{"config": r.config, "overrides": r.overrides, "choices": r.choices, "notes": r.notes} for r in recipes]
    temporary = entry.with_suffix(f".{os.getpid()}.tmp")
    with contextlib.suppress(OSError):
        entry.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(data), "utf-8")
        os.replace(temporary, entry)
        _prune(entry.parent)


def _prune(folder: Path) -> None:
    entries = sorted(folder.glob("*.json"), key=lambda file: file.stat().st_mtime_ns, reverse=True)
    for old in entries[KEPT:]:
        old.unlink(missing_ok=True)

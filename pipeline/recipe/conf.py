"""Where conf/ lies, and what it offers: plain YAML reads, no hydra.

A folder of the user's own comes first: PIPELINE_CONF (one or more, joined by the path separator) may add a model or
replace a shipped one by the same name.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from pipeline.errors import UserError, nearest

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ROOT / "conf"
GROUPS = ("model", "quant", "adapter", "target", "embedding", "verify")


def conf_dirs(environ: str | None = None, cwd: Path | None = None) -> list[Path]:
    """The configuration folders, most important first, the shipped one last. Relative ones start at `cwd`.

    environ: instead of the variable PIPELINE_CONF. Raises UserError for a missing folder.
    """
    given = os.environ.get("PIPELINE_CONF", "") if environ is None else environ
    start = cwd or Path.cwd()
    mine = [(start / Path(part).expanduser()).resolve() for part in given.split(os.pathsep) if part]
    for folder in mine:
        if not folder.is_dir():
            raise UserError(f"PIPELINE_CONF names a folder that is not there: {folder}", "create or unset it")
    return [*mine, SHIPPED]


def options(group: str, folders: Sequence[Path]) -> list[str]:
    """Names that `group=` accepts, sorted; a YAML in a sub-folder is `folder/name`."""
    names = {name for folder in folders for name, _ in _files(folder / group)}
    return sorted(names)


def option_files(group: str, folders: Sequence[Path]) -> dict[str, Path]:
    """Name → YAML file of every option of `group`, the first folder's winning."""
    found: dict[str, Path] = {}
    for folder in reversed(folders):
        found.update(_files(folder / group))
    return dict(sorted(found.items()))


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    for file in folder.rglob("*.yaml"):
        yield file.relative_to(folder).with_suffix("").as_posix(), file


def option_file(group: str, name: str, folders: Sequence[Path]) -> Path:
    """The YAML file of one option. Raises UserError that names the nearest match."""
    known = option_files(group, folders)
    if name not in known:
        raise unknown_option(group, name, known)
    return known[name]


def unknown_option(group: str, name: str, known: Any) -> UserError:
    """The error for `group=name` when there is no such option."""
    names = sorted(known)
    step = f"known: {', '.join(names)}" if len(names) <= 16 else f"list them: doit {group}s"
    return UserError(f"unknown {group} '{name}'.{nearest(name, names)}", step)


def read_yaml(file: Path) -> Any:
    """The plain content of a YAML file. Raises UserError with the line of a syntax error."""
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        return yaml.load(file.read_text("utf-8"), Loader=loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise UserError(f"{file}{line} is not valid YAML: {getattr(error, 'problem', None) or error}") from None


def yaml_files(folders: Sequence[Path]) -> list[Path]:
    """Every YAML file below the folders, sorted."""
    return sorted(file for folder in folders for file in folder.rglob("*.yaml"))


Stamp = tuple[tuple[str, int, int], ...]


def stamp(files: Iterable[Path]) -> Stamp:
    """(path, bytes, modification time in ns) of each file: equal as long as none of them changed."""
    return tuple((str(file), found.st_size, found.st_mtime_ns) for file in files for found in [os.stat(file)])

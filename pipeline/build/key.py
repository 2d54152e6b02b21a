"""The action key: everything that a stage's output may depend on, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from pipeline.build.canonical import digest
from pipeline.build.code import CodeDigests
from pipeline.build.nodes import Node
from pipeline.build.store import Blob, hash_file, identity
from pipeline.build.tools import versions

File = TypeVar("File")
Files = Mapping[str, Blob]
# Keys of the recipe that name a file which a stage reads by itself.
FILE_PATHS = ("target.mnnconvert", "quant.calibration.text")


def ingredients(node: Node, inputs: Mapping[str, Files], code: CodeDigests) -> dict[str, Any]:
    """Plain data whose digest is the key. inputs: for each declared input the files that matched its patterns."""
    return {
        "stage": node.stage.name,
        "module": node.stage.module,
        "code": code.closure(node.stage.module, node.stage.code),
        "tools": versions(node.stage.tools),
        "config": by_content(node.config),
        "inputs": {name: {file: blob.sha256 for file, blob in sorted(files.items())} for name, files in inputs.items()},
    }


def by_content(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config with each path of a file replaced by the file's digest: what is in it counts, not where it lies."""
    return {name: _by_content(value, f"{name}") for name, value in config.items()}


def _by_content(value: Any, where: str) -> Any:
    if isinstance(value, Mapping):
        return {name: _by_content(one, f"{where}.{name}") for name, one in value.items()}
    if where in FILE_PATHS and value and Path(str(value)).is_file():
        return f"sha256:{_file_digest(str(value), identity(Path(str(value))))}"
    return value


@cache
def _file_digest(path: str, seen: tuple[int, ...]) -> str:
    return hash_file(Path(path))


def action_key(parts: Mapping[str, Any]) -> str:
    """The key of `ingredients`."""
    return digest("action", dict(parts))


def select(files: Mapping[str, File], patterns: tuple[str, ...]) -> dict[str, File]:
    """The files that match one of the glob patterns. "**" is everything; "*" does not cross a slash."""
    return {name: files[name] for name in sorted(files) if any(matches(name, one) for one in patterns)}


def matches(name: str, pattern: str) -> bool:
    """Whether a POSIX path matches: segment by segment, where a "**" segment stands for any number of segments."""
    return _match(name.split("/"), pattern.split("/"))


def _match(names: list[str], patterns: list[str]) -> bool:
    if not patterns:
        return not names
    if patterns[0] == "**":
        if len(patterns) == 1:
            return bool(names)
        return any(_match(names[start:], patterns[1:]) for start in range(len(names) + 1))
    return bool(names) and fnmatchcase(names[0], patterns[0]) and _match(names[1:], patterns[1:])

"""The action key: everything that a stage's output may depend on, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

from pipeline.build.canonical import digest
from pipeline.build.code import CodeDigests
from pipeline.build.nodes import Node
from pipeline.build.store import Blob
from pipeline.build.tools import versions

Files = Mapping[str, Blob]


def ingredients(node: Node, inputs: Mapping[str, Files], code: CodeDigests) -> dict[str, Any]:
    """Plain data whose digest is the key. inputs: for each declared input the files that matched its patterns."""
    return {
        "stage": node.stage.name,
        "module": node.stage.module,
        "code": code.closure(node.stage.module, node.stage.code),
        "tools": versions(node.stage.tools),
        "config": dict(node.config),
        "inputs": {name: {file: blob.sha256 for file, blob in sorted(files.items())} for name, files in inputs.items()},
    }


def action_key(parts: Mapping[str, Any]) -> str:
    """The key of `ingredients`."""
    return digest("action", dict(parts))


def select(files: Files, patterns: tuple[str, ...]) -> dict[str, Blob]:
    """The files that match one of the glob patterns. "**" is everything; "*" does not cross a slash."""
    return {name: blob for name, blob in sorted(files.items()) if any(matches(name, one) for one in patterns)}


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

"""Versions of the tools that a stage names, without importing any of them."""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Iterable
from functools import cache

from pipeline.errors import UserError


def versions(tools: Iterable[str]) -> dict[str, str]:
    """Distribution → version, with Python's and the machine's, which decide how floats are added and text is sorted.

    Raises UserError for a distribution that is not installed.
    """
    found = {"python": ".".join(map(str, sys.version_info[:2])), "machine": platform.machine()}
    found.update({tool: version(tool) for tool in sorted(tools)})
    return found


def version(tool: str) -> str:
    """The installed version of one distribution. Raises UserError if there is none."""
    name = _normal(tool)
    for folder in dict.fromkeys(sys.path):
        if name in (known := _distributions(folder)):
            return known[name]
    raise UserError(f"{tool} is not installed, and a stage needs it", f"pip install {tool}")


@cache
def _distributions(folder: str) -> dict[str, str]:
    """Normal name → version from the names of *.dist-info: importlib.metadata reads each, ten times slower."""
    try:
        names = os.listdir(folder or ".")
    except (FileNotFoundError, NotADirectoryError):
        return {}
    pairs = (entry.removesuffix(".dist-info").split("-", 1) for entry in names if entry.endswith(".dist-info"))
    return {_normal(pair[0]): pair[1] for pair in pairs if len(pair) == 2}


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()

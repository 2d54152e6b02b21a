"""`doit gc`."""

from __future__ import annotations

from typing import Any


def task_gc() -> dict[str, Any]:
    """gc"""
    return {"actions": [lambda: print("gc: not there yet")], "io": {"capture": False}}

"""`doit lock`."""

from __future__ import annotations

from typing import Any


def task_lock() -> dict[str, Any]:
    """lock"""
    return {"actions": [lambda: print("lock: not there yet")], "io": {"capture": False}}

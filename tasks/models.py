"""`doit models`."""

from __future__ import annotations

from typing import Any


def task_models() -> dict[str, Any]:
    """models"""
    return {"actions": [lambda: print("models: not there yet")], "io": {"capture": False}}

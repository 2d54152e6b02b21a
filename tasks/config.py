"""DOIT_CONFIG: doit schedules and reports; it remembers nothing (our store does) and starts no processes (we do)."""

from __future__ import annotations

from typing import Any

from tasks.reporter import Reporter
from tasks.request import BUILDING, current


def doit_config() -> dict[str, Any]:
    """Raises BadRequest for options that no verb knows."""
    request = current()
    return {
        "backend": "sqlite3",
        "dep_file": ":memory:",
        "par_type": "thread",
        "num_process": request.jobs if request.verb in BUILDING else 0,
        "continue": request.keep_going,
        "always": request.always,
        "verbosity": 0,
        "reporter": Reporter,
        "default_tasks": ["export"] if request.verb == "export" or request.command != "run" else ["usage"],
    }

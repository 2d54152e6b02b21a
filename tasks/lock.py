"""`doit lock`: write pipeline.lock. `--locked` on export and verify: hold to it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tasks.failures import loading
from tasks.request import PARAMS, current


@loading
def task_lock() -> Iterator[dict[str, Any]]:
    """write pipeline.lock for what an export makes: doit lock model=… quant=…"""
    yield {"name": None, "doc": task_lock.__doc__, "params": PARAMS, "pos_arg": "words"}
    request = current()
    if request.verb == "lock" and request.command == "run":
        from tasks.locking import lock_tasks

        yield from lock_tasks()

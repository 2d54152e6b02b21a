"""`doit verify`: the full verification of a product that exists."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tasks.failures import loading
from tasks.request import PARAMS, current


@loading
def task_verify() -> Iterator[dict[str, Any]]:
    """the full verification of a product that exists: doit verify model=… quant=…"""
    yield {"name": None, "doc": task_verify.__doc__, "params": PARAMS, "pos_arg": "words"}
    request = current()
    if request.verb == "verify" and request.command == "run":
        from tasks.verifying import verify_tasks

        yield from verify_tasks()

"""`doit verify`: the full verification of a product that exists; with `engines=`, on other versions of the engine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tasks.failures import loading
from tasks.request import PARAMS, current


@loading
def task_verify() -> Iterator[dict[str, Any]]:
    """the full verification of a product that exists: doit verify model=… quant=… [engines=3.4.0,3.6.1]"""
    yield {"name": None, "doc": task_verify.__doc__, "params": PARAMS, "pos_arg": "words"}
    request = current()
    if request.verb == "verify" and request.command == "run":
        if request.engines:
            from tasks.engines import engine_tasks

            yield from engine_tasks()
            return
        from tasks.verifying import verify_tasks

        yield from verify_tasks()

"""`doit export`: build what is missing, verify, publish."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tasks.failures import loading
from tasks.request import PARAMS, current


@loading
def task_export() -> Iterator[dict[str, Any]]:
    """build, verify and publish: doit export model=smollm2-135m quant=int4 (commas sweep)"""
    yield {"name": None, "doc": task_export.__doc__, "params": PARAMS, "pos_arg": "words"}
    request = current()
    if request.verb == "export" and request.command == "run":
        from tasks.publishing import publish_tasks

        yield from publish_tasks("export")
    elif request.command in ("clean", "forget"):
        from tasks.housekeeping import housekeeping_tasks

        yield from housekeeping_tasks(request)

"""Writing the lock after a build."""

from __future__ import annotations

from collections.abc import Iterator
from threading import Lock
from typing import Any

from pipeline.build import lockfile
from pipeline.build.nodes import Product
from tasks.places import home
from tasks.publishing import published
from tasks.session import session
from tasks.stages import stage_tasks

_WRITING = Lock()


def lock_tasks() -> Iterator[dict[str, Any]]:
    """Build and publish as export does, then write the product's entry."""
    run = session()

    def finish(product: Product) -> None:
        published(run, product)
        with _WRITING:
            lockfile.write(home() / lockfile.LOCK_FILE, {product.name: lockfile.entry(run.engine, product)})
        run.terminal.say(f"  locked {product.name} in {lockfile.LOCK_FILE}")

    return stage_tasks("lock", run, finish)

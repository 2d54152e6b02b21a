"""Publishing a product of this session; used by `export` and `lock`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pipeline.build.nodes import Product
from pipeline.build.product import Published, publish, up_to_date
from tasks.session import Session, session
from tasks.stages import stage_tasks


def publish_tasks(verb: str) -> Iterator[dict[str, Any]]:
    """The tasks of `doit export`."""
    run = session()
    return stage_tasks(verb, run, lambda product: published(run, product))


def published(run: Session, product: Product) -> Published:
    """The product in its place, by a no-op where it is there. Raises StageFailed."""
    done = up_to_date(run.engine, product) or publish(run.engine, product)
    run.published.append(done)
    return done

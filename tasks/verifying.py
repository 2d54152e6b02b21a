"""Verification of a product on the disk: its bytes are those that the recipe makes, and those pass the full gate."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pipeline.build.nodes import Product
from pipeline.build.product import MANIFEST, different_files
from pipeline.errors import StageFailed, UserError
from tasks.places import shown
from tasks.session import session
from tasks.stages import stage_tasks


def verify_tasks() -> Iterator[dict[str, Any]]:
    """The stages with verify=full (what was built is a hit), then the product's own files against them."""
    run = session()
    for product in run.graph.products:
        if not (product.folder / MANIFEST).is_file():
            raise UserError(f"{shown(product.folder)} is not there", "make it first: doit export with the same recipe")

    def finish(product: Product) -> None:
        wrong = different_files(run.engine, product)
        if wrong:
            raise StageFailed(
                f"{shown(product.folder)}: {', '.join(wrong)} differ from what the recipe makes",
                "publish it again: doit export with the same recipe",
            )
        quality = product.nodes.get("quality")
        notes = run.engine.outcomes[quality.id].record.notes if quality else ()
        for line in (*notes, f"{shown(product.folder)} passes"):
            run.terminal.say(f"  {line}")

    return stage_tasks("verify", run, finish)

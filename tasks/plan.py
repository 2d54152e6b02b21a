"""`doit plan`: what an export would do, and why."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from pipeline.build.nodes import Product, SourceNode
from pipeline.errors import PipelineError
from tasks.failures import guarded
from tasks.request import PARAMS

if TYPE_CHECKING:
    from pipeline.recipe.preflight import Estimate


def task_plan() -> dict[str, Any]:
    """what an export would do, and why: doit plan model=… quant=… [--json]"""
    return {"actions": [guarded("plan", show)], "params": PARAMS, "pos_arg": "words", "io": {"capture": False}}


def show(words: list[str], **options: Any) -> None:
    """The action; the request has read the options already."""
    try:
        _plan()
    except BrokenPipeError:  # `doit plan | head`: whoever read has enough. Only here: what builds must not lose one
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _plan() -> None:
    from pipeline.build.console import size, table
    from pipeline.build.plan import make_plan, product_verdict
    from tasks.session import session

    run = session()
    present = {node.id: _present(node) for node in run.graph.sources.values()}
    steps = make_plan(run.engine, run.graph, present)
    verdicts = {product.name: product_verdict(run.engine, product, steps) for product in run.graph.products}
    if run.request.json:
        products = [
            {
                "product": product.name,
                "verdict": verdicts[product.name],
                "estimate": asdict(cost) if (cost := _cost(product)) else None,
                "stages": [steps[node.id].to_json() for node in product.nodes.values()],
            }
            for product in run.graph.products
        ]
        print(json.dumps({"format": 1, "products": products}, indent=2, sort_keys=True))
        return
    for product in run.graph.products:
        print(f"{product.name}: {verdicts[product.name]}")
        if any(steps[node.id].verdict == "BUILD" for node in product.nodes.values()) and (cost := _cost(product)):
            print(f"  from nothing about {_told(cost)}")
        rows = [["stage", "", "size", "why"]]
        for node in product.nodes.values():
            step = steps[node.id]
            rows.append([step.stage, step.verdict, size(step.bytes) if step.bytes else "", step.why()])
        print(table(rows, right=(2,)))


def _cost(product: Product) -> Estimate | None:
    """What the recipe alone tells of it: all stages, whether they are hits or not."""
    from pipeline.recipe.preflight import estimate
    from pipeline.recipe.schema import Recipe
    from pipeline.recipe.typed import build

    return estimate(build(Recipe, dict(product.recipe)))


def _told(cost: Estimate) -> str:
    from pipeline.build.console import size

    reference = f" (the reference {size(cost.reference_memory)} more)" if cost.reference_memory else ""
    disk, seconds = size(cost.disk), f"{cost.seconds:.0f} s without verification"
    return f"{size(cost.memory)} of memory{reference}, {disk} of disk, {seconds}"


def _present(node: SourceNode) -> bool:
    from tasks.session import session

    run = session()
    try:
        present = run.engine.assume(node, run.terminal.log(node.name))
    except PipelineError as error:
        print(f"{node.name}: {error}", file=sys.stderr)
        return False
    if not present:
        print(f"{node.name}: {node.label} was not fetched yet", file=sys.stderr)
    return present

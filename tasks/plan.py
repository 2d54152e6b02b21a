"""`doit plan`: what an export would do, and why."""

from __future__ import annotations

import json
from typing import Any

from pipeline.build.nodes import SourceNode
from pipeline.errors import PipelineError
from tasks.failures import guarded
from tasks.request import PARAMS


def task_plan() -> dict[str, Any]:
    """what an export would do, and why: doit plan model=… quant=… [--json]"""
    return {"actions": [guarded("plan", show)], "params": PARAMS, "pos_arg": "words", "io": {"capture": False}}


def show(words: list[str], **options: Any) -> None:
    """The action; the request has read the options already."""
    _plan()


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
                "stages": [steps[node.id].to_json() for node in product.nodes.values()],
            }
            for product in run.graph.products
        ]
        print(json.dumps({"format": 1, "products": products}, indent=2, sort_keys=True))
        return
    for product in run.graph.products:
        print(f"{product.name}: {verdicts[product.name]}")
        rows = [["stage", "", "size", "why"]]
        for node in product.nodes.values():
            step = steps[node.id]
            rows.append([step.stage, step.verdict, size(step.bytes) if step.bytes else "", step.why()])
        print(table(rows, right=(2,)))


def _present(node: SourceNode) -> bool:
    from tasks.session import session

    run = session()
    try:
        present = run.engine.assume(node, run.terminal.log(node.name))
    except PipelineError as error:
        run.terminal.say(f"{node.name}: {error}")
        return False
    if not present:
        run.terminal.say(f"{node.name}: {node.label} was not fetched yet")
    return present

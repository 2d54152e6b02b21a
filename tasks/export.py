"""`doit export`: a task for each source, stage and product, in the order that the graph gives."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pipeline.build.nodes import Node, Product, SourceNode
from tasks.request import PARAMS, current

Task = dict[str, Any]


def task_export() -> Iterator[Task]:
    """build, verify and publish: doit export model=smollm2-135m quant=int4 (commas sweep)"""
    yield {"name": None, "doc": task_export.__doc__, "params": PARAMS, "pos_arg": "words"}
    request = current()
    if request.verb == "export" and request.command == "run":
        yield from _tasks()


def _tasks() -> Iterator[Task]:
    from tasks.session import session

    run = session()
    for note in run.notes:
        run.terminal.say(f"  note: {note}")
    for source in run.graph.sources.values():
        yield _source_task(source)
    for node in run.graph.nodes.values():
        yield _stage_task(node)
    for product in run.graph.products:
        yield _product_task(product)


def _source_task(node: SourceNode) -> Task:
    from tasks.session import session

    run = session()
    log = run.terminal.log(node.name)
    return _task(_name(node), run.guard(_name(node), lambda: run.engine.resolve(node, log)))


def _stage_task(node: Node) -> Task:
    from tasks.session import session

    run = session()
    action = run.guard(_name(node), lambda: run.engine.build(node))
    after = [f"export:{_name(edge.node)}" for edge in node.inputs.values()]
    return {**_task(_name(node), action), "task_dep": after, "uptodate": [lambda: _known(node)]}


def _product_task(product: Product) -> Task:
    from pipeline.build.product import publish, up_to_date
    from tasks.session import session

    run = session()

    def make() -> None:
        published = up_to_date(run.engine, product) or publish(run.engine, product)
        run.published.append(published)

    name = f"product:{product.name}"
    nodes: list[Node | SourceNode] = [*product.sources.values(), *product.nodes.values()]
    after = [f"export:{_name(node)}" for node in nodes]
    return {**_task(name, run.guard(name, make)), "task_dep": after}


def _known(node: Node) -> bool:
    """Whether doit may skip the stage. Errors wait for the action, which can report them."""
    from pipeline.errors import PipelineError
    from tasks.session import session

    try:
        return session().engine.lookup(node)
    except PipelineError:
        return False


def _task(name: str, action: Any) -> Task:
    # Without capture doit leaves sys.stdout alone; its capture mixes the output of two threads.
    return {"name": name, "actions": [action], "io": {"capture": False}}


def _name(node: Node | SourceNode) -> str:
    return f"{node.name}:{node.label}:{node.id[:10]}"

"""Tasks for a request's sources, stages and products, in the order that the graph gives. Used by several verbs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from pipeline.build.nodes import Node, Product, SourceNode
from pipeline.errors import PipelineError
from tasks.failures import guarded
from tasks.session import Session

Task = dict[str, Any]


def stage_tasks(verb: str, run: Session, finish: Callable[[Product], object]) -> Iterator[Task]:
    """Sub-tasks of `verb`; `finish` is called for each product when its stages have all succeeded."""
    for note in run.notes:
        run.terminal.say(f"  note: {note}")
    for source in run.graph.sources.values():
        yield _source_task(run, source)
    for node in run.graph.nodes.values():
        yield _stage_task(verb, run, node)
    for product in run.graph.products:
        yield _product_task(verb, product, finish)


def task_name(node: Node | SourceNode) -> str:
    """The sub-task's name; unique, because the id is."""
    return f"{node.name}:{node.label}:{node.id[:10]}"


def _source_task(run: Session, node: SourceNode) -> Task:
    log = run.terminal.log(node.name)

    def find() -> None:
        run.engine.resolve(node, log)
        run.terminal.end(node.name)

    return _task(task_name(node), find)


def _stage_task(verb: str, run: Session, node: Node) -> Task:
    after = [f"{verb}:{task_name(edge.node)}" for edge in node.inputs.values()]
    known = [lambda: _known(run, node)]
    return {**_task(task_name(node), lambda: run.engine.build(node)), "task_dep": after, "uptodate": known}


def _product_task(verb: str, product: Product, finish: Callable[[Product], object]) -> Task:
    nodes: list[Node | SourceNode] = [*product.sources.values(), *product.nodes.values()]
    after = [f"{verb}:{task_name(node)}" for node in nodes]
    return {**_task(f"product:{product.name}", lambda: finish(product)), "task_dep": after}


def _known(run: Session, node: Node) -> bool:
    """Whether doit may skip the stage. Errors wait for the action, which can report them."""
    try:
        return run.engine.lookup(node)
    except PipelineError:
        return False


def _task(name: str, action: Callable[[], object]) -> Task:
    # Without capture doit leaves sys.stdout alone; its capture mixes the output of two threads.
    return {"name": name, "actions": [guarded(name, action)], "io": {"capture": False}}

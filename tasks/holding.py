"""Holding a build to the lock."""

from __future__ import annotations

from typing import Any

from pipeline.build import lockfile
from pipeline.build.engine import Engine, SourceFiles
from pipeline.build.nodes import Graph, SourceNode
from pipeline.build.stage import Log
from pipeline.errors import UserError
from tasks.places import home


def hold_to_lock(engine: Engine, graph: Graph) -> None:
    """Compare what is known now, and make the engine compare the rest as it comes. Raises UserError."""
    entries = lockfile.read(home() / lockfile.LOCK_FILE)
    for product in graph.products:
        if product.name not in entries:
            raise UserError(
                f"{product.name} is not in {lockfile.LOCK_FILE}", "write it: doit lock with the same recipe"
            )
        lockfile.refuse_difference(engine, product, entries[product.name])
        for name, node in product.nodes.items():
            engine.expected[node.id] = entries[product.name]["stages"][name]["output"]
    _hold_sources(engine, graph, entries)


def _hold_sources(engine: Engine, graph: Graph, entries: dict[str, Any]) -> None:
    """A branch is looked up at the locked commit; every file's digest is compared as soon as it is known."""
    resolve = engine.resolver
    users = {
        node.id: (product, entries[product.name]) for product in graph.products for node in product.sources.values()
    }

    def held(node: SourceNode, log: Log) -> SourceFiles:
        product, locked = users[node.id]
        commit = locked["sources"].get(node.name, {}).get("revision", "")
        spec = {**node.spec, "revision": commit} if commit and "revision" in node.spec else node.spec
        found = resolve(SourceNode(node.name, spec, node.id, node.label), log)
        lockfile.refuse_other_source(product, node.name, found, locked)
        return found

    engine.resolver = held

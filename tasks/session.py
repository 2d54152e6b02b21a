"""One run: the recipes of the request, the graph, the engine on its store."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.build.ahead import HeadStart, Quiet, no_source
from pipeline.build.code import CodeDigests, memo_file
from pipeline.build.console import Terminal
from pipeline.build.engine import Engine, RemoteStore, Resolver, SourceFiles
from pipeline.build.execution import LARGE, Executor
from pipeline.build.locks import hold_shared
from pipeline.build.nodes import Graph, SourceNode, build_graph, consumers
from pipeline.build.product import Published
from pipeline.build.stage import Log
from pipeline.build.store import Blob, Store
from pipeline.errors import UserError
from tasks.places import artifacts, store_folder, store_of
from tasks.request import BadRequest, Request, current, start_folder

if TYPE_CHECKING:
    from pipeline.recipe.compose import Composed


Reading = Callable[[SourceNode, Mapping[str, Path], int], None]


@dataclass
class Session:
    """What the tasks of one process share."""

    request: Request
    engine: Engine
    graph: Graph
    terminal: Terminal
    head_start: HeadStart
    notes: tuple[str, ...] = ()
    published: list[Published] = field(default_factory=list)


@cache
def session() -> Session:
    """The session of the request. Raises BadRequest (doit prints it as one line, exit code 3)."""
    try:
        return _open(current())
    except UserError as error:
        raise BadRequest(str(error)) from None


def started() -> Session | None:
    """The session if this run has one."""
    return session() if session.cache_info().currsize else None


def _open(request: Request) -> Session:
    from pipeline.recipe.cached import compose_cached
    from pipeline.recipe.early import refuse_impossible
    from pipeline.stages import registry

    overrides = list(request.overrides)
    if request.verb == "verify" and not request.engines and not any(text.startswith("verify=") for text in overrides):
        overrides.append("verify=full")
    recipes = compose_cached(overrides, store_folder() / "recipes", start_folder())
    configs = [recipe.config for recipe in recipes]
    store = Store(store_of(configs))
    for one in recipes:
        refuse_impossible(one.recipe, store.root)
    if request.verb == "export":
        _refuse_full_disk(recipes, store.root)
    store.create()
    hold_shared(store.lock_path("gc"))
    graph = build_graph(configs, registry.stages(), artifacts())
    terminal = Terminal(many=len(configs) > 1)
    code = CodeDigests(memo_file(store.root))
    remote = remote_of(configs, terminal)
    executor = Executor(store, code, terminal, consumers=consumers(graph))

    head_start = HeadStart(Engine(executor, no_source, Quiet(terminal), remote), graph)
    engine = Engine(executor, resolver(store, _meanwhile(request, head_start)), terminal, remote, always=request.always)
    if request.locked:
        from tasks.holding import hold_to_lock

        hold_to_lock(engine, graph)
    _end_cleanly(engine)
    notes = tuple(dict.fromkeys(note for recipe in recipes for note in recipe.notes))
    return Session(request, engine, graph, terminal, head_start, notes)


def _meanwhile(request: Request, head_start: HeadStart) -> Reading:
    """While a source is read on one core, a worker imports on the other; a large source leaves time for more."""
    executor, graph = head_start.engine.executor, head_start.graph

    def reading(source: SourceNode, paths: Mapping[str, Path], size: int) -> None:
        if not request.builds:
            return
        executor.warm_up_for(source)
        for node in graph.nodes.values():  # what keys will need, lest stages wait for it one by one
            executor.code.closure(node.stage.module, node.stage.code)
        if size > LARGE and not request.always:
            head_start.begin(source, paths)

    return reading


def _refuse_full_disk(recipes: Sequence[Composed], store: Path) -> None:
    """Before any work: the disk must hold what is new. A product that exists may be a hit, which needs no room."""
    from pipeline.recipe.preflight import refuse_full_disk

    refuse_full_disk([(one.recipe, None) for one in recipes if not (artifacts() / one.name).exists()], store)


def remote_of(recipes: Sequence[Mapping[str, Any]], terminal: Terminal) -> RemoteStore | None:
    """The remote store that the recipes name, or None. Raises UserError for a mode that is none."""
    cache = recipes[0]["cache"]
    if cache["remote_mode"] not in ("off", "read", "readwrite"):
        raise UserError(f"cache.remote_mode={cache['remote_mode']} is no mode", "use off, read or readwrite")
    if not cache["remote"] or cache["remote_mode"] == "off":
        return None
    from pipeline.build.remote import Remote

    return Remote(cache["remote"], cache["remote_mode"], terminal.say)


def resolver(store: Store, reading: Reading) -> Resolver:
    """How the engine finds sources: `pipeline.source`, with its memo of digests in the store.

    reading: called before files of a source are read, with names and places of all of them and the bytes to read.
    """

    def resolve(node: SourceNode, log: Log) -> SourceFiles:
        from pipeline import source

        find = source.resolve if node.name == "source" else source.resolve_adapter
        listing = find(node.spec, store.root, log, partial(reading, node))
        files = {name: Blob(file.sha256, file.size) for name, file in sorted(listing.files.items())}
        paths = {name: Path(file.path).resolve() for name, file in listing.files.items()}
        return SourceFiles(files, paths, listing.revision, listing.kind)

    return resolve


def _end_cleanly(engine: Engine) -> None:
    """Ctrl-C and SIGTERM: workers die first, then one line; records of finished stages are already on the disk."""

    def stop(number: int, frame: object) -> None:
        engine.executor.spawner.kill_all()
        sys.stderr.write("\ninterrupted: finished stages are kept; the same command goes on from there\n")
        sys.stderr.flush()
        os._exit(128 + number)

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)

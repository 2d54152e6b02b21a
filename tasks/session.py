"""One run: the recipes of the request, the graph, the engine on its store."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from doit.exceptions import TaskFailed

from pipeline.build.code import CodeDigests
from pipeline.build.console import Terminal
from pipeline.build.engine import Engine, SourceFiles
from pipeline.build.locks import hold_shared
from pipeline.build.nodes import Graph, SourceNode, build_graph
from pipeline.build.product import Published
from pipeline.build.stage import Log
from pipeline.build.store import Blob, Store
from pipeline.errors import PipelineError, UserError
from tasks.request import BadRequest, Request, current, start_folder

ARTIFACTS = Path("artifacts")
STORE = ".cache"


@dataclass
class Session:
    """What the tasks of one process share."""

    request: Request
    engine: Engine
    graph: Graph
    terminal: Terminal
    notes: tuple[str, ...] = ()
    published: list[Published] = field(default_factory=list)
    failures: dict[str, PipelineError] = field(default_factory=dict)

    def guard(self, name: str, action: Callable[[], object]) -> Callable[[], Any]:
        """A doit action: a PipelineError becomes a failed task, remembered under `name`; a bug stays an exception."""

        def run() -> Any:
            try:
                action()
            except PipelineError as error:
                self.failures[name] = error
                return TaskFailed(str(error), report=False)
            return True

        return run


@cache
def session() -> Session:
    """The session of the request. Raises BadRequest (doit prints it as one line, exit code 3)."""
    try:
        return _open(current())
    except UserError as error:
        raise BadRequest(str(error)) from None


def _open(request: Request) -> Session:
    from pipeline.recipe.cached import compose_cached
    from pipeline.stages.registry import stages

    home = Path.cwd()
    recipes = compose_cached(list(request.overrides), home / ARTIFACTS / STORE / "recipes", start_folder())
    configs = [recipe.config for recipe in recipes]
    store = Store(store_folder(configs, home))
    store.create()
    hold_shared(store.lock_path("gc"))
    graph = build_graph(configs, stages(), home / ARTIFACTS)
    terminal = Terminal(many=len(configs) > 1)
    engine = Engine(
        store, CodeDigests(store.root / "code-digests.json"), _resolver(store), terminal, always=request.always
    )
    _end_cleanly(engine)
    notes = tuple(dict.fromkeys(note for recipe in recipes for note in recipe.notes))
    return Session(request, engine, graph, terminal, notes)


def store_folder(configs: Sequence[dict[str, Any]], home: Path) -> Path:
    """The one store of all recipes. Raises UserError if they name several."""
    folders = {str(config["cache"]["dir"] or home / ARTIFACTS / STORE) for config in configs}
    if len(folders) > 1:
        raise UserError(f"the recipes name {len(folders)} stores", "leave cache.dir out of the sweep")
    return Path(folders.pop())


def _resolver(store: Store) -> Callable[[SourceNode, Log], SourceFiles]:
    def resolve(node: SourceNode, log: Log) -> SourceFiles:
        from pipeline import source

        find = source.resolve if node.name == "source" else source.resolve_adapter
        listing = find(node.spec, store.root, log)
        files = {name: Blob(file.sha256, file.size) for name, file in sorted(listing.files.items())}
        paths = {name: Path(file.path).resolve() for name, file in listing.files.items()}
        return SourceFiles(files, paths, listing.revision, listing.kind)

    return resolve


def _end_cleanly(engine: Engine) -> None:
    """Ctrl-C and SIGTERM: workers die first, then one line; records of finished stages are already on the disk."""

    def stop(number: int, frame: object) -> None:
        engine.spawner.kill_all()
        sys.stderr.write("\ninterrupted: finished stages are kept; the same command goes on from there\n")
        sys.stderr.flush()
        os._exit(128 + number)

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)

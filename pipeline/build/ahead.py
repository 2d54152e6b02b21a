"""A head start: what depends on a large source's small parts only is built while all of the source is being hashed.

Keys need digests, so nothing that reads the source has a key yet. A stage that says `ahead` reads little of it: it runs
on the files as they are, and its output is kept until its key is known and the files are seen to be the same ones
still. What follows from that output alone has its proper key at once, gets its proper record, and is a hit when its
turn comes. Nothing rests on the head start: what it did not do, or failed at, is done in its turn, and told there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Thread

from pipeline.build.engine import BUILT, Engine, Outcome, SourceFiles
from pipeline.build.execution import Starts
from pipeline.build.key import select
from pipeline.build.locks import exclusive
from pipeline.build.nodes import Graph, Node, SourceNode
from pipeline.build.stage import Log
from pipeline.build.store import Record

CLOSING_SECONDS = 20.0


@dataclass
class HeadStart:
    """engine: one of its own, with the executor and the remote of the run's; graph: of the run."""

    engine: Engine
    graph: Graph
    _threads: dict[str, Thread] = field(default_factory=dict)
    _stopped: Event = field(default_factory=Event)

    def begin(self, source: SourceNode, paths: Mapping[str, Path]) -> None:
        """Start on `source`, of which the names and places of its files are known, in a thread; once for each."""
        if source.id not in self._threads:
            thread = Thread(target=self._run, args=(source, paths), name="head-start", daemon=True)
            self._threads[source.id] = thread
            thread.start()

    def close(self) -> None:
        """Begin nothing more; a stage that nobody has waited for ends with its worker."""
        self._stopped.set()
        if any(thread.is_alive() for thread in self._threads.values()):
            self.engine.executor.spawner.kill_all()
        for thread in self._threads.values():
            thread.join(CLOSING_SECONDS)

    def _run(self, source: SourceNode, paths: Mapping[str, Path]) -> None:
        wanted = needed_by_readers(self.graph)
        for node in self.graph.nodes.values():
            if self._stopped.is_set():
                return
            try:
                if node.stage.ahead and {edge.node.id for edge in node.inputs.values()} == {source.id}:
                    self._draft(node, paths)
                elif node.id in wanted and node.inputs and self._inputs_known(node):
                    self._build(node)
            except Exception:
                return

    def _inputs_known(self, node: Node) -> bool:
        return all(edge.node.id in self.engine.outcomes for edge in node.inputs.values())

    def _draft(self, node: Node, paths: Mapping[str, Path]) -> None:
        inputs = {name: select(paths, edge.files) for name, edge in node.inputs.items()}
        files = self.engine.executor.draft(node, inputs)
        self.engine.outcomes[node.id] = Outcome(Record("", node.name, node.label, {}, files), BUILT)

    def _build(self, node: Node) -> None:
        """As the run would, but for what a person is told: that comes with the node's turn."""
        engine = self.engine
        if engine.lookup(node):
            return
        key, parts = engine.key(node)
        paths = {name: engine.materialise(edge) for name, edge in node.inputs.items()}
        with exclusive(engine.store.lock_path(key)):
            record = engine.store.find(node.name, key)
            if record is None:
                record = engine.executor.run(node, key, parts, paths)
                engine.executor.ahead[key] = record.seconds
        engine.outcomes[node.id] = Outcome(record, BUILT)


class Quiet:
    """The console of a head start's engine: what is told of a stage is told in its turn, and the rest at once."""

    def __init__(self, console: Starts) -> None:
        self._console = console

    def started(self, node: Node) -> Log:
        return self

    def finished(self, node: Node, outcome: Outcome) -> None:
        pass

    def log(self, title: str) -> Log:
        return self

    def say(self, text: str) -> None:
        self._console.say(text)

    def progress(self, done: int, total: int, what: str) -> None:
        pass

    def note(self, text: str) -> None:
        pass


def no_source(node: SourceNode, log: Log) -> SourceFiles:
    """The resolver of a head start's engine, which builds nothing that reads a source."""
    raise LookupError(node.name)


def needed_by_readers(graph: Graph) -> set[str]:
    """Ids of the nodes that something waits for which reads a source: their time is the build's."""
    needed: set[str] = set()
    for node in reversed(graph.nodes.values()):
        inputs = [edge.node for edge in node.inputs.values()]
        if node.id in needed or any(isinstance(one, SourceNode) for one in inputs):
            needed.update(one.id for one in inputs)
    return needed

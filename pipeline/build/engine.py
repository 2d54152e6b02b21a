"""Builds nodes: key → record, or run the stage. Knows nothing of doit, which only says in what order."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any, Protocol

from pipeline.build.code import CodeDigests
from pipeline.build.execution import Executor, Starts
from pipeline.build.key import Files, action_key, ingredients, select
from pipeline.build.locks import exclusive
from pipeline.build.nodes import Edge, Node, SourceNode
from pipeline.build.pinned import last_key, listing_record, of_a_hub, pinned_key
from pipeline.build.stage import Log
from pipeline.build.store import Blob, Record, Store
from pipeline.errors import PipelineError, StageFailed

HIT, REMOTE, BUILT = "hit", "remote", "built"


class Console(Starts, Protocol):
    """Where a build speaks."""

    def finished(self, node: Node, outcome: Outcome) -> None:
        """The stage has a record."""

    def log(self, title: str) -> Log:
        """The log of something that is no stage."""


class RemoteStore(Protocol):
    """Another machine's store. Never raises: what it cannot do, it says once."""

    def find(self, stage: str, key: str) -> Record | None:
        """The record of `key`, or None."""

    def fetch(self, blobs: Iterable[Blob], store: Store, log: Log) -> set[str]:
        """Digests of those that are now in `store`, verified."""

    def upload(self, record: Record, store: Store) -> None:
        """Begin to send it: blobs first, the record last."""

    def finish(self) -> None:
        """Wait until everything is sent."""


@dataclass(frozen=True)
class SourceFiles:
    """A source's files: name → blob; name → absolute path, empty while they are known but not here (a hub's commit)."""

    files: Mapping[str, Blob]
    paths: Mapping[str, Path]
    revision: str = ""
    kind: str = ""


# Finds the files of a source node; may download. Raises UserError for what a person can mend.
Resolver = Callable[[SourceNode, Log], SourceFiles]


@dataclass(frozen=True)
class Outcome:
    """How a node came to its record: hit, remote or built; seconds are this run's."""

    record: Record
    how: str
    seconds: float = 0.0


@dataclass
class Engine:
    """One run over one store. `always` builds every node once more, whatever the records say."""

    executor: Executor
    resolver: Resolver
    console: Console
    remote: RemoteStore | None = None
    always: bool = False
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    sources: dict[str, SourceFiles] = field(default_factory=dict)
    # Node id → output digest that pipeline.lock demands.
    expected: dict[str, str] = field(default_factory=dict)
    _said: Lock = field(default_factory=Lock)
    _fetching: Lock = field(default_factory=Lock)

    @property
    def store(self) -> Store:
        """The store of this run."""
        return self.executor.store

    @property
    def code(self) -> CodeDigests:
        """Digests of the stages' code."""
        return self.executor.code

    def resolve(self, node: SourceNode, log: Log) -> SourceFiles:
        """The source's files; looked up once in a run."""
        if node.id not in self.sources:
            found = self._listed(node) or self._found(node, log)
            size = sum(blob.size for blob in found.files.values())
            self.executor.source_bytes = max(self.executor.source_bytes, size)
            self.sources[node.id] = found
        return self.sources[node.id]

    def _listed(self, node: SourceNode) -> SourceFiles | None:
        """The files of a hub's commit from a record of them."""
        key = pinned_key(node)
        if key is None or self.always:
            return None
        record = self.store.find(node.name, key)
        if record is None and self.remote is not None:
            record = self.remote.find(node.name, key)
        return None if record is None else _source_files(record)

    def assume(self, node: SourceNode, log: Log) -> bool:
        """For plans: take the source as it is here or, for a hub's, as it was last seen. False if it was never seen."""
        if not of_a_hub(node):
            self.resolve(node, log)
            return True
        found = self._listed(node)
        if found is None and (key := last_key(node)) and (record := self.store.find(node.name, key)):
            found = _source_files(record)
        if found is not None:
            self.sources[node.id] = found
        return found is not None

    def _found(self, node: SourceNode, log: Log) -> SourceFiles:
        """The files themselves; downloads what is missing."""
        found = self.resolver(node, log)
        if (key := pinned_key(node)) is not None:
            record = listing_record(node, key, found.files, found.revision, found.kind)
            self.store.publish(record)
            if self.remote is not None:
                self.remote.upload(record, self.store)
        elif (key := last_key(node)) is not None:
            self.store.publish(listing_record(node, key, found.files, found.revision, found.kind))
        return found

    def _source_paths(self, node: SourceNode) -> Mapping[str, Path]:
        known = self.sources[node.id]
        if not known.paths and known.files:
            with self._fetching:
                if not self.sources[node.id].paths:
                    self.sources[node.id] = self._found(node, self.console.log(node.name))
            if self.sources[node.id].files != known.files:
                self.console.say(f"{node.name}: the hub's files are not those that the record named: taking the hub's")
        return self.sources[node.id].paths

    def key(self, node: Node) -> tuple[str, dict[str, Any]]:
        """(action key, its ingredients). Every input must have an outcome."""
        parts = ingredients(node, {name: self.files(edge) for name, edge in node.inputs.items()}, self.code)
        return action_key(parts), parts

    def lookup(self, node: Node) -> bool:
        """Whether the node has a record, here or at the remote; then its outcome is known."""
        if self.always or not self._inputs_known(node):
            return False
        key, _ = self.key(node)
        if (record := self.store.find(node.name, key)) is not None:
            self.store.touch(record)
            return self._settle(node, self._had(record))
        if self.remote is not None and (record := self.remote.find(node.name, key)) is not None:
            self.store.publish(record)
            return self._settle(node, Outcome(record, REMOTE))
        return False

    def _had(self, record: Record) -> Outcome:
        """A hit; but what a head start has built in this very run was built."""
        seconds = self.executor.ahead.pop(record.key, None)
        if seconds is None:
            return Outcome(record, HIT)
        if self.remote is not None:
            self.remote.upload(record, self.store)
        return Outcome(record, BUILT, seconds)

    def recorded(self, node: Node) -> Record | None:
        """The node's record here, if its inputs have theirs; asks no remote."""
        if not self._inputs_known(node) or (record := self.store.find(node.name, self.key(node)[0])) is None:
            return None
        self.outcomes[node.id] = Outcome(record, HIT)
        return record

    def build(self, node: Node) -> Outcome:
        """Run the stage unless a record has appeared meanwhile. Raises UserError or StageFailed."""
        with self._naming(node):
            paths = {name: self.materialise(edge) for name, edge in node.inputs.items()}
            key, parts = self.key(node)
            with exclusive(self.store.lock_path(key)):
                record = None if self.always else self.store.find(node.name, key)
                outcome = self._had(record) if record else self._run(node, key, parts, paths)
            self._settle(node, outcome)
        return outcome

    def materialise(self, edge: Edge) -> dict[str, Path]:
        """Name → path of an input's files, each verified by its digest just now, or fetched or built again."""
        if isinstance(edge.node, SourceNode):
            paths = self._source_paths(edge.node)
            return {name: paths[name] for name in self.files(edge)}
        blobs = self.files(edge)
        if self.absent(blobs.values()):
            self._rebuild(edge.node)
            blobs = self.files(edge)
        self._say_dropped()
        return {name: self.store.blob_path(blob.sha256) for name, blob in blobs.items()}

    def absent(self, blobs: Iterable[Blob]) -> list[Blob]:
        """Those blobs that are neither here with the right bytes nor could be fetched."""
        missing = [blob for blob in blobs if not self.store.verified(blob)]
        if missing and self.remote is not None:
            fetched = self.remote.fetch(missing, self.store, self.console.log("download"))
            missing = [blob for blob in missing if blob.sha256 not in fetched]
        return missing

    def _rebuild(self, node: Node) -> None:
        """Make the bytes of a known record again; they must be the same bytes."""
        before = self.outcomes[node.id].record
        self._say_dropped()
        self.console.say(f"{node.name}: its files are not in the store (any more): building them again")
        paths = {name: self.materialise(edge) for name, edge in node.inputs.items()}
        key, parts = self.key(node)
        with exclusive(self.store.lock_path(key)):
            if not [blob for blob in before.files.values() if not self.store.verified(blob)]:
                return  # another process was quicker
            outcome = self._run(node, key, parts, paths)
        if outcome.record.output != before.output:
            raise StageFailed(
                f"{node.name}: the same ingredients gave other bytes ({_first_difference(before, outcome.record)})",
                "run again with -a to build everything anew",
            )
        self._settle(node, outcome)

    def _run(self, node: Node, key: str, parts: dict[str, Any], paths: Mapping[str, Mapping[str, Path]]) -> Outcome:
        started = time.monotonic()
        record = self.executor.run(node, key, parts, paths)
        if self.remote is not None:
            self.remote.upload(record, self.store)
        return Outcome(record, BUILT, max(record.seconds, time.monotonic() - started))

    def files(self, edge: Edge) -> Files:
        """The declared files of an input whose node has an outcome."""
        if isinstance(edge.node, SourceNode):
            return select(self.sources[edge.node.id].files, edge.files)
        return select(self.outcomes[edge.node.id].record.files, edge.files)

    def _inputs_known(self, node: Node) -> bool:
        return all(edge.node.id in self.sources or edge.node.id in self.outcomes for edge in node.inputs.values())

    def _settle(self, node: Node, outcome: Outcome) -> bool:
        self._say_dropped()
        if self.expected.get(node.id, outcome.record.output) != outcome.record.output:
            raise StageFailed(
                f"{node.name}: its output is not the one that pipeline.lock names ({outcome.record.output[:12]}, "
                f"locked {self.expected[node.id][:12]})",
                "write the lock anew (doit lock …), or restore what changed",
            )
        self.outcomes[node.id] = outcome
        self.console.finished(node, outcome)
        return True

    def _say_dropped(self) -> None:
        with self._said:
            lines, self.store.dropped = self.store.dropped, []
        for line in lines:
            self.console.say(line)

    def _naming(self, node: Node) -> _Naming:
        return _Naming(node)


class _Naming:
    """Puts the model and the stage before a failure's line."""

    def __init__(self, node: Node) -> None:
        self._prefix = f"{node.label}: {node.name}" if node.label else node.name

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, PipelineError) and not str(error).startswith(self._prefix):
            error.args = (f"{self._prefix}: {error}",)


def _source_files(record: Record) -> SourceFiles:
    return SourceFiles(record.files, {}, str(record.figures["revision"]), str(record.figures["kind"]))


def _first_difference(before: Record, after: Record) -> str:
    names = sorted({*before.files, *after.files})
    return next(name for name in names if before.files.get(name) != after.files.get(name))

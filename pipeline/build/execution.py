"""Running one stage: a sandbox, a worker (or this process, for a light stage), its output into the store, a record."""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from threading import Lock
from typing import Any, Protocol

from pipeline.build.budget import MemoryBudget
from pipeline.build.code import ROOT, UNCOUNTED, CodeDigests
from pipeline.build.nodes import Node, SourceNode
from pipeline.build.process import Spawner, Worker, failure
from pipeline.build.sandbox import Sandbox, make
from pipeline.build.stage import Digests, Log
from pipeline.build.store import Blob, Record, Store, disk_full, identity
from pipeline.build.worker import describe, run_job
from pipeline.errors import PipelineError, StageFailed

LARGE = 800_000_000
DRAFT = "draft"


class Starts(Protocol):
    """What execution tells a console."""

    def started(self, node: Node) -> Log:
        """The stage starts; its log."""

    def say(self, text: str) -> None:
        """One line."""


@dataclass(frozen=True)
class _Made:
    """What a stage put into the store, and the identities of the files that it read."""

    files: Mapping[str, Blob]
    seconds: float
    notes: tuple[str, ...]
    identities: Mapping[Path, tuple[int, ...]]


@dataclass
class Executor:
    """Runs stages on one store. consumers: node id → stages that read it, so that their workers can warm up;
    source_bytes: of the largest source that is known by now."""

    store: Store
    code: CodeDigests
    console: Starts
    budget: MemoryBudget = field(default_factory=MemoryBudget)
    spawner: Spawner = field(default_factory=Spawner)
    consumers: Mapping[str, list[Node]] = field(default_factory=dict)
    source_bytes: int = 0
    # Key → seconds of what was built before its turn.
    ahead: dict[str, float] = field(default_factory=dict)
    _drafts: dict[str, _Made] = field(default_factory=dict)
    _warm: dict[str, Worker] = field(default_factory=dict)
    _lock: Lock = field(default_factory=Lock)
    _numbers: Any = field(default_factory=count)

    def run(self, node: Node, key: str, parts: dict[str, Any], paths: Mapping[str, Mapping[str, Path]]) -> Record:
        """Run the stage on `paths` (input → name → file) and publish its record. Raises UserError or StageFailed."""
        made = self._drafted(node, paths) or self._make(node, key, paths)
        record = Record(key, node.name, node.label, parts, made.files, made.seconds, made.notes)
        self.store.publish(record)
        return record

    def draft(self, node: Node, paths: Mapping[str, Mapping[str, Path]]) -> Mapping[str, Blob]:
        """Run the stage before its key can be known. Its output, which `run` takes if the inputs are the same then."""
        made = self._make(node, DRAFT, paths)
        self._drafts[node.id] = made
        return made.files

    def _drafted(self, node: Node, paths: Mapping[str, Mapping[str, Path]]) -> _Made | None:
        made = self._drafts.pop(node.id, None)
        if made is None:
            return None
        now = {path: identity(path) for files in paths.values() for path in files.values()}
        return made if now == made.identities else None

    def _make(self, node: Node, key: str, paths: Mapping[str, Mapping[str, Path]]) -> _Made:
        """Run the stage; its files are in the store then, and no record names them yet."""
        with ExitStack() as stack:
            stack.enter_context(self.budget.hold(node.memory))
            self._warm_up_after(node)
            log = Notes(self.console.started(node))
            sandbox = make(self.store.scratch(node.name), paths)
            stack.callback(sandbox.remove)
            started = time.monotonic()
            try:
                digests = self._execute(node, key, sandbox, log)
            except PipelineError as error:
                for path, kept in self._keep_reports(node, key, sandbox):
                    error.args = (str(error).replace(str(path), str(kept)),)
                raise
            sandbox.refuse_changed_inputs()
            files = self.store.take(sandbox.out, digests)
            seconds = round(time.monotonic() - started, 3)
        return _Made(files, seconds, tuple(log.notes), sandbox.identities)

    def close(self) -> None:
        """End workers that nobody needed."""
        with self._lock:
            for worker in self._warm.values():
                worker.kill()
            self._warm.clear()
        self.spawner.close()

    def warm_up_for(self, source: SourceNode) -> None:
        """Let the first stage that has much to import do so while the source is being read."""
        for node in self.consumers.get(source.id, []):
            self._warm_up_after(node)

    def _warm_up_after(self, node: Node) -> None:
        """Let one worker import its libraries while `node` makes its input; two would only take turns on the cores."""
        waiting = [one for one in self.consumers.get(node.id, []) if one.stage.warm and not one.stage.in_process]
        with self._lock:
            if not waiting or self._warm:
                return
            chosen = waiting[0]
            log = self.store.root / "logs" / f"{chosen.name}-warm-{next(self._numbers)}.log"
            worker = self.spawner.start(log, self.store.root / "tmp", self._shared(chosen))
            large = chosen.stage.warm_large if self.source_bytes > LARGE else ()
            worker.warm((*chosen.stage.warm, *large))
            self._warm[chosen.id] = worker

    def _worker(self, node: Node, log: Path, cwd: Path) -> Worker:
        with self._lock:
            worker = self._warm.pop(node.id, None)
        if worker is None:
            return self.spawner.start(log, cwd, self._shared(node))
        worker.log.replace(log)
        worker.log = log
        return worker

    def _shared(self, node: Node) -> tuple[str, ...]:
        """What the node's worker warms up with, if those of others do so with the same; otherwise nothing."""
        others = {one.id for readers in self.consumers.values() for one in readers if one.stage.warm == node.stage.warm}
        return node.stage.warm if others - {node.id} else ()

    def _execute(self, node: Node, key: str, sandbox: Sandbox, log: Log) -> Digests:
        """Digests that the stage computed itself."""
        job = {
            "module": node.stage.module,
            "config": node.config,
            "config_paths": list(node.stage.config),
            "inputs": {name: str(path) for name, path in sandbox.inputs.items()},
            "out": str(sandbox.out),
            "cwd": str(sandbox.work),
        }
        log_path = self.store.log_path(node.name, key)
        if node.stage.in_process:
            return run_here(job, log, log_path)
        with disk_full(self.store.root):
            worker = self._worker(node, log_path, sandbox.work)
        try:
            result = worker.run(job, log)
        finally:
            self.spawner.done(worker)
        self._refuse_uncounted(node, result["imported"])
        return dict(result["digests"])

    def _refuse_uncounted(self, node: Node, imported: list[str]) -> None:
        """Raises StageFailed if the stage imported a module of ours whose code its key does not know."""
        closure = self.code.closure(node.stage.module, node.stage.code)
        for file in imported:
            path = Path(file)
            if not path.is_relative_to(ROOT):
                continue
            name = path.relative_to(ROOT).as_posix()
            module = name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
            counted = name in closure or any(f"{module}.".startswith(f"{one}.") for one in UNCOUNTED)
            if not counted and name != "pipeline/__init__.py":
                raise StageFailed(
                    f"{name} was imported but is not part of the stage's action key", f"name {module} in STAGE.code"
                )

    def _keep_reports(self, node: Node, key: str, sandbox: Sandbox) -> list[tuple[Path, Path]]:
        """What a failed stage wrote down about its failure outlives it. Where each file was, and where it is kept."""
        moved = []
        for path in sorted(sandbox.out.glob("report*.json")):
            kept = self.store.root / "logs" / f"{node.name}-{key[:16]}.{path.name}"
            path.replace(kept)
            self.console.say(f"{node.name}: {path.name} kept as {kept}")
            moved.append((path, kept))
        return moved


class Notes:
    """A log that also remembers its notes, for the record."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self.notes: list[str] = []

    def progress(self, done: int, total: int, what: str) -> None:
        self._log.progress(done, total, what)

    def note(self, text: str) -> None:
        self.notes.append(text)
        self._log.note(text)


def run_here(job: dict[str, Any], log: Log, log_path: Path) -> Digests:
    """A light stage in this process. Its errors look as if they came from a worker."""
    try:
        return run_job(json.loads(json.dumps(job)), log)
    except PipelineError:
        raise
    except Exception as error:
        with suppress(OSError):  # a full disk has no room for the log either, and the error to tell is the first one
            log_path.write_text("".join(traceback.format_exception(error)), encoding="utf-8")
        raise failure(describe(error), Path(job["out"]), log_path) from error

"""What a stage is. A stage declares all that it may look at; the engine gives it nothing else.

A stage's module holds one function,

    def run(config: Mapping[str, Any], inputs: Mapping[str, Path], out: Path, log: Log) -> Digests | None

`config` holds the declared recipe paths only (as a nested plain dict); `inputs[name]` is a folder that holds only the
declared files of the producing stage (or of the source); `out` is an empty folder, and the only place to write. A stage
that hashed what it wrote, while it wrote it, says so: those files are not read for their digests.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

Digests = Mapping[str, str]
"""Name (POSIX, relative to `out`) → sha256 in lower-case hex."""


class Log(Protocol):
    """How a stage speaks while it works. Never print: native code owns stdout."""

    def progress(self, done: int, total: int, what: str) -> None:
        """`done` of `total` bytes (or steps) of `what`; drawn as a bar."""

    def note(self, text: str) -> None:
        """One line that belongs beside the stage in the summary (a measured figure, a warning)."""


@dataclass(frozen=True)
class Input:
    """Files of another stage's output. `files` are glob patterns relative to that output's root.

    `stage` is a stage's name, or "source" for the model's own files as they were found (weights among them), or
    "adapter" for those of the LoRA folders that are merged, or "split" for those of adapters that stay apart.
    """

    stage: str
    files: tuple[str, ...] = ("**",)


@dataclass(frozen=True)
class Stage:
    """A node of the build graph.

    module: dotted name of the module that holds `run`; its syntax tree and that of the pipeline modules it imports
    enter the action key. code: further modules, or packages with all in them, that `run` imports by computed names (one
    that is imported and was not found is an error). config: dotted recipe paths that `run` may read. tools:
    distributions whose versions enter the key. warm: modules that the worker may import while inputs are built;
    warm_large: more of them, if the source is large (loading compiled loops takes longer than they save on small ones).
    in_process: True only for stages without torch, native code or much memory. ahead: True for a stage that reads
    little of a large source, and may do so before all of it is hashed (ahead.py). memory: estimate in bytes of the
    worker's peak from the recipe, for the scheduler's budget.
    """

    name: str
    module: str
    inputs: tuple[Input, ...] = ()
    config: tuple[str, ...] = ()
    tools: tuple[str, ...] = ()
    in_process: bool = False
    ahead: bool = False
    code: tuple[str, ...] = ()
    warm: tuple[str, ...] = ()
    warm_large: tuple[str, ...] = ()
    memory: Callable[[Mapping[str, Any]], int] = lambda recipe: 256 << 20
    applies: Callable[[Mapping[str, Any]], bool] = lambda recipe: True

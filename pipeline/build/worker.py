"""The child process that runs one stage: `python -m pipeline.build.worker FD PARENT LIFELINE`.

Reads JSON lines on stdin: optionally {"warm": [modules]}, then the job. Writes JSON lines to FD: progress, notes, and
at the end one result. stdout and stderr, native code's too, are the stage's log file.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

from pipeline.build.lifeline import die_with_parent, guard_group
from pipeline.build.memory import peak

OBJECTS = 50_000
"""New objects between two looks for garbage."""


class PipeLog:
    """`pipeline.build.stage.Log` over the pipe."""

    def __init__(self, pipe: TextIO) -> None:
        self._pipe = pipe

    def progress(self, done: int, total: int, what: str) -> None:
        self.send({"progress": [int(done), int(total), str(what)]})

    def note(self, text: str) -> None:
        self.send({"note": str(text)})

    def send(self, message: dict[str, Any]) -> None:
        self._pipe.write(json.dumps(message) + "\n")
        self._pipe.flush()


def main(arguments: list[str]) -> None:
    """Never returns: ends by `os._exit`, because some native libraries crash in their destructors."""
    with_few_collections()
    die_with_parent(int(arguments[1]))
    guard_group(int(arguments[2]), (int(arguments[0]),))
    log = PipeLog(os.fdopen(int(arguments[0]), "w", encoding="utf-8"))
    job = _job()
    if job is None:
        os._exit(0)
    os.chdir(job["cwd"])
    result = _result(job, log)
    log.send({"result": {**result, "imported": _imported(), "peak": peak()}})
    with suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(0)


def with_few_collections() -> None:
    """Let Python look for garbage in cycles seldom, and not at all while modules are imported: half a million objects
    that live as long as the process are looked at again and again otherwise, a fifth of what importing torch and
    transformers takes. What is large here, arrays and tensors, is freed by its count of references."""
    gc.set_threshold(OBJECTS, 20, 100)
    gc.disable()


def collect_the_new() -> None:
    """What is there by now stays, and is looked at no more; of what comes, garbage is collected."""
    gc.freeze()
    gc.enable()


def _job() -> dict[str, Any] | None:
    for line in sys.stdin:
        message: dict[str, Any] = json.loads(line)
        if "warm" not in message:
            collect_the_new()
            return message
        for module in message["warm"]:
            importlib.import_module(module)
    return None


def _result(job: dict[str, Any], log: PipeLog) -> dict[str, Any]:
    try:
        return {"digests": run_job(job, log)}
    except Exception as error:
        with suppress(OSError):  # the log's disk may be full, too
            traceback.print_exc()
        return {"error": describe(error)}


def run_job(job: dict[str, Any], log: Any) -> dict[str, str]:
    """Call the stage's `run` with its declared part of the recipe and folders that hold its declared inputs only.

    Digests of those output files that the stage hashed itself are returned.
    """
    from pipeline.build.config import strict

    module = importlib.import_module(job["module"])
    inputs = {name: Path(folder) for name, folder in job["inputs"].items()}
    return dict(module.run(strict(job["config"], job["config_paths"]), inputs, Path(job["out"]), log) or {})


def describe(error: BaseException) -> dict[str, Any]:
    """An exception as plain data: kind "user", "stage" or "bug", and one line."""
    from pipeline.errors import PipelineError, UserError

    if isinstance(error, UserError):
        return {"kind": "user", "message": error.message, "next_step": error.next_step}
    if isinstance(error, PipelineError):
        message, next_step = getattr(error, "message", str(error)), getattr(error, "next_step", "")
        return {"kind": "stage", "message": message, "next_step": next_step}
    if isinstance(error, MemoryError):
        return {"kind": "stage", "message": "out of memory", "next_step": "close other programs or build with -n 1"}
    if isinstance(error, OSError) and error.errno is not None:
        return {"kind": "os", "message": str(error), "errno": error.errno}
    first = next(iter(str(error).splitlines()), "")
    return {"kind": "bug", "message": f"{type(error).__name__}: {first}" if first else type(error).__name__}


def _imported() -> list[str]:
    """Files of the imported `pipeline` modules, so that the engine can tell one that the code digest missed."""
    # No other module is even looked at: to ask a lazy one for its file is to import it.
    ours = [module for name, module in list(sys.modules.items()) if name.partition(".")[0] == "pipeline"]
    return sorted(str(module.__file__) for module in ours if getattr(module, "__file__", None))


if __name__ == "__main__":
    main(sys.argv[1:])

"""A product on one engine version, in a child process: what it answered, or how far it came."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.mnn.versions import probe

Logits = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Questions:
    """What every version is asked. prompt: ids of a chat prompt; evaluation: ids whose logits are compared."""

    prompt: Sequence[int]
    evaluation: Sequence[int]
    max_new_tokens: int
    threads: int = 2


@dataclass(frozen=True)
class Trial:
    """How far a version came. step: the last one begun (import, load, answer, answered, logits, done).

    failure: "" or how it ended early. text: the greedy answer. logits: float32 [evaluation, vocabulary], None if none.
    """

    version: str
    step: str
    failure: str
    text: str | None
    logits: Logits | None


def attempt(version: str, python: Path, config: Path, questions: Questions, timeout: float) -> Trial:
    """Runs the product whose config.json is `config` on the environment's engine; never longer than `timeout` s."""
    with tempfile.TemporaryDirectory(prefix="engine-version-", ignore_cleanup_errors=True) as folder:
        out = Path(folder)
        (out / "job.json").write_text(json.dumps(_job(config, questions)), encoding="utf-8")
        ended = _run([str(python), "-I", probe.__file__, str(out / "job.json"), folder], out, timeout)
        return _read(version, out, ended)


def _job(config: Path, questions: Questions) -> dict[str, Any]:
    return {
        "config": str(config),
        "overrides": {"sampler_type": "greedy", "thread_num": questions.threads},
        "prompt": list(questions.prompt),
        "evaluation": list(questions.evaluation),
        "max_new_tokens": questions.max_new_tokens,
    }


def _run(command: list[str], folder: Path, timeout: float) -> str:
    """How it ended early, or "". The engine drops its scratch files in `folder`."""
    quiet = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    with (folder / "log").open("wb") as log:
        try:
            code = subprocess.run(
                command, cwd=folder, env=quiet, stdin=subprocess.DEVNULL, stdout=log, stderr=log, timeout=timeout,
                check=False,
            ).returncode  # fmt: skip
        except subprocess.TimeoutExpired:
            return f"no end within {timeout:g} s"
    if code < 0:
        return signal.Signals(-code).name
    return _last_line(folder / "log") if code else ""


def _last_line(log: Path) -> str:
    lines = [line.strip() for line in log.read_text("utf-8", "replace").splitlines() if line.strip()]
    return lines[-1][:200] if lines else "it left without a word"


def _read(version: str, out: Path, ended: str) -> Trial:
    """A child killed while it wrote leaves half an array: only after "done" is there a whole one."""
    path = out / "steps.jsonl"
    steps = [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.is_file() else []
    answered = next((step for step in steps if step["step"] == "answered"), None)
    done = bool(steps) and steps[-1]["step"] == "done"
    return Trial(
        version=version,
        step=steps[-1]["step"] if steps else "import",
        failure=ended,
        text=answered["text"] if answered else None,
        logits=np.load(out / "logits.npy") if done else None,
    )

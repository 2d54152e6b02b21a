"""A folder with a dodo.py of its own, in which the real doit runs the real verbs on toy stages."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
DODO = """
from pipeline.stages import registry
from tests.tasks.toy_stages import stages

registry.stages = stages
from tasks import *
from tasks import doit_config

DOIT_CONFIG = doit_config()
"""


class Folder:
    """`doit(...)` runs and returns (exit code, stdout, stderr); `start(...)` returns the process."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.calls_file = root / "calls"
        self.model = root / "tiny"
        self.model.mkdir(parents=True)
        self.artifacts = root / "artifacts"
        (root / "dodo.py").write_text(DODO)
        self.write_model("llama")

    def write_model(self, kind: str) -> None:
        """The smallest folder that passes for a Hugging Face model."""
        import numpy as np
        from safetensors.numpy import save_file

        (self.model / "config.json").write_text(f'{{"model_type": "{kind}", "hidden_size": 64}}')
        save_file({"model.embed_tokens.weight": np.zeros((4, 64), np.float16)}, self.model / "model.safetensors")

    def environment(self, **variables: str) -> dict[str, str]:
        paths = os.pathsep.join((str(ROOT), str(ROOT / "tests/build")))
        foreign = ("PIPELINE_", "DOIT_", "PYTHONDONTWRITEBYTECODE")
        clean = {key: value for key, value in os.environ.items() if not key.startswith(foreign)}
        return {**clean, "PYTHONPATH": paths, "TOY_CALLS": str(self.calls_file), **variables}

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "doit", *arguments]

    @property
    def sweep(self) -> list[str]:
        """The recipe without a name, for several products."""
        return self.recipe[:-1]

    @property
    def recipe(self) -> list[str]:
        return ["model=local", f"model.path={self.model}", "verify.length=1000000", "name=toy"]

    def doit(self, *arguments: str, recipe: bool = True, **variables: str) -> tuple[int, str, str]:
        command = self.command(*arguments, *(self.recipe if recipe else []))
        done = subprocess.run(
            command, cwd=self.root, env=self.environment(**variables), capture_output=True, text=True, timeout=120
        )
        return done.returncode, done.stdout, done.stderr

    def start(self, *arguments: str, **variables: str) -> subprocess.Popen[str]:
        command = self.command(*arguments, *self.recipe)
        return subprocess.Popen(
            command,
            cwd=self.root,
            env=self.environment(**variables),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    @property
    def calls(self) -> list[str]:
        """Stages that ran since the last look."""
        lines = self.calls_file.read_text().split() if self.calls_file.exists() else []
        self.calls_file.unlink(missing_ok=True)
        return lines

    def content(self, name: str = "toy") -> dict[str, bytes]:
        folder = self.artifacts / name
        return {
            str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
        }

    def workers(self) -> list[int]:
        """Pids of live workers of this folder (their working directory is in its store)."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    inside = os.readlink(entry / "cwd").startswith(str(self.root / "artifacts"))
                    state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
                except (FileNotFoundError, ProcessLookupError, PermissionError):
                    continue
                if inside and state != "Z":
                    found.append(int(entry.name))
        return found

    def no_worker_is_left(self, seconds: float = 5.0) -> bool:
        end = time.monotonic() + seconds
        while self.workers() and time.monotonic() < end:
            time.sleep(0.02)
        return not self.workers()


def end(process: subprocess.Popen[str], number: int = signal.SIGKILL) -> Any:
    """Send the signal; (exit code, stdout, stderr)."""
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    return process.returncode, out, err

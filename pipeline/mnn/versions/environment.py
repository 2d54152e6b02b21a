"""One virtual environment per engine version: that wheel and numpy, nothing else, kept in the user's cache folder.

The environments hold no product and nothing of this project; removing the folder only costs the next run a minute.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from pipeline.build.locks import exclusive
from pipeline.errors import StageFailed, UserError

_PIP_SECONDS = 900.0


class Unreachable(StageFailed):
    """pip reached no package index, or none that has MNN for this Python and processor: it does not tell which."""


def cache_folder() -> Path:
    """Where the environments are kept: below XDG_CACHE_HOME, or ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "mnn-pipeline" / "engines"


def interpreter(version: str, say: Callable[[str], None]) -> Path:
    """The Python of the environment with MNN `version`, made on first use; processes that want the same one wait.

    Raises UserError for what is no version or has no wheel for this Python, Unreachable when pip gets no answer.
    """
    if not re.fullmatch(r"\d+\.\d+\.\d+", version):
        raise UserError(f"'{version}' is not an engine version", "write engines=3.4.0,3.6.1")
    folder = cache_folder() / f"{version}-{sys.implementation.cache_tag}"
    python = folder / "bin" / "python"
    with exclusive(folder.with_name(f"{folder.name}.lock")):
        if not python.exists():
            say(f"installing MNN {version} into an environment of its own: {folder}")
            _make(version, folder)
    return python


def _make(version: str, folder: Path) -> None:
    """Built beside its place and renamed, so that what is there is whole."""
    scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        _run([sys.executable, "-m", "venv", "--without-pip", str(scratch)], version)
        _run(_pip(scratch / "bin" / "python", version), version)
        os.rename(scratch, folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _pip(python: Path, version: str) -> list[str]:
    """This Python's pip installs into the other environment: wheels only, no dependencies, numpy as here."""
    packages = [f"MNN=={version}", f"numpy=={importlib.metadata.version('numpy')}"]
    options = ["--no-deps", "--only-binary", ":all:", "--no-compile", "--disable-pip-version-check", "--no-input"]
    return [sys.executable, "-m", "pip", "--python", str(python), "install", *options, *packages]


def _run(command: list[str], version: str) -> None:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_PIP_SECONDS, stdin=subprocess.DEVNULL, check=False
        )
    except subprocess.TimeoutExpired:
        raise Unreachable(f"installing MNN {version} took longer than {_PIP_SECONDS:g} s", "try again later") from None
    if done.returncode:
        raise _failure(version, done.stderr)


def _failure(version: str, said: str) -> StageFailed | UserError:
    """pip's complaint as one line."""
    offered = re.search(rf"requirement MNN=={re.escape(version)} \(from versions: (.*?)\)", said)
    if offered and offered.group(1) != "none":
        return UserError(f"there is no MNN {version} for this Python", f"choose from {offered.group(1)}")
    if offered:
        return Unreachable(f"pip finds no MNN {version}: no index answers, or it has none for here", "go online once")
    last = next((line for line in reversed(said.splitlines()) if line.strip()), "no output")
    return StageFailed(f"MNN {version} cannot be installed: {last.strip()[:300]}", "see what pip says")

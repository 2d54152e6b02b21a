"""File locks. `flock` belongs to an open file, so it holds between threads as well as processes, and dies with them."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold `path` alone; waits for whoever holds it. The file stays: removing it would let two holders in."""
    with _locked(path, fcntl.LOCK_EX):
        yield


@contextmanager
def shared(path: Path) -> Iterator[None]:
    """Hold `path` with others."""
    with _locked(path, fcntl.LOCK_SH):
        yield


def try_exclusive(path: Path) -> int | None:
    """A handle that holds `path` alone until it is closed, or None if somebody else holds it."""
    handle = _open(path)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return None
    return handle


def hold_shared(path: Path) -> int:
    """A handle that holds `path` with others until it is closed or the process ends."""
    handle = _open(path)
    fcntl.flock(handle, fcntl.LOCK_SH)
    return handle


@contextmanager
def _locked(path: Path, kind: int) -> Iterator[None]:
    handle = _open(path)
    try:
        fcntl.flock(handle, kind)
        yield
    finally:
        os.close(handle)


def _open(path: Path) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)

"""sha256 of files, remembered by (path, inode, size, mtime, ctime) so that a no-op reads nothing."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from pipeline.build.stage import Log
from pipeline.source.listing import SourceFile

MEMO_NAME = "source-digests.json"
CHUNK = 1 << 20
THREADS = 2
Reading = Callable[[Mapping[str, Path], int], None]
# A file written this recently could be written again within one tick of the file system's clock: not remembered.
SETTLED_NS = 50_000_000


class DigestMemo:
    """Digests of files by identity, kept in `folder`. A damaged memo is dropped: every entry can be computed again.

    log: is told how far files that must be read have been read. reading: is told, before any of them is read, names and
    places of all files, and how many bytes must be read.
    """

    def __init__(self, folder: Path, log: Log | None = None, reading: Reading | None = None) -> None:
        self._path = folder / MEMO_NAME
        self._log = log
        self._reading = reading
        self._read, self._to_read = 0, 0
        self._entries = _load(self._path)
        self._changed = False
        self.hashed: list[Path] = []
        self._stopped = threading.Event()

    def describe_all(self, files: Mapping[str, Path]) -> dict[str, SourceFile]:
        """`describe` of each by its name; where several have to be read (a sharded model), by threads."""
        new = [path for path in files.values() if not self._known(path.resolve())]
        self._read, self._to_read = 0, sum(path.stat().st_size for path in new)
        if new and self._reading is not None:
            self._reading({name: path.resolve() for name, path in files.items()}, self._to_read)
        return dict(zip(files, self._all(list(files.values()), len(new)), strict=True))

    def _all(self, paths: Sequence[Path], new: int) -> list[SourceFile]:
        if new < 2:
            return [self.describe(path) for path in paths]
        from concurrent.futures import ThreadPoolExecutor

        pool = ThreadPoolExecutor(THREADS)
        try:
            return list(pool.map(self.describe, paths))
        except BaseException:
            self._stopped.set()  # Ctrl-C must not wait until gigabytes are read
            raise
        finally:
            pool.shutdown(cancel_futures=True)

    def describe(self, path: Path) -> SourceFile:
        """`path` with its size and sha256; reads the file only when its identity is not known."""
        real = path.resolve()
        if known := self._known(real):
            return known
        stat = real.stat()
        digest = sha256_of(real, self._stopped, self._advance)
        self.hashed.append(real)
        if time.time_ns() - stat.st_mtime_ns > SETTLED_NS:
            self._entries[str(real)] = [*_identity(stat), digest]
            self._changed = True
        return SourceFile(real, digest, stat.st_size)

    def _advance(self, count: int) -> None:
        self._read += count
        if self._log is not None:
            self._log.progress(self._read, max(self._read, self._to_read), "sha256")

    def _known(self, real: Path) -> SourceFile | None:
        stat = real.stat()
        known = self._entries.get(str(real))
        if known is None or known[:-1] != _identity(stat):
            return None
        return SourceFile(real, str(known[-1]), stat.st_size)

    def remember(self, path: Path, digest: str) -> None:
        """Take `digest` for `path` from a hub's own metadata, so that a fresh download is not read once more."""
        real = path.resolve()
        stat = real.stat()
        self._entries[str(real)] = [*_identity(stat), digest]
        self._changed = True

    def save(self) -> None:
        """Write the memo if it changed. Two processes may write at once: each writes a whole file, the last wins."""
        if not self._changed:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=self._path.parent, prefix=".digests-")
        try:
            with os.fdopen(handle, "w") as file:
                json.dump(self._entries, file, sort_keys=True)
            os.replace(name, self._path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name)
            raise
        self._changed = False


def sha256_of(path: Path, stopped: threading.Event | None = None, advance: Callable[[int], None] | None = None) -> str:
    """Lower-case hex sha256 of a file's bytes, read in pieces of one MiB. RuntimeError soon after `stopped` is set.

    advance: gets the bytes of each piece before it is hashed.
    """
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while piece := file.read(CHUNK):
            if advance is not None:
                advance(len(piece))
            digest.update(piece)
            if stopped is not None and stopped.is_set():
                raise RuntimeError(f"stopped reading {path}")
    return digest.hexdigest()


def _identity(stat: os.stat_result) -> list[object]:
    """ctime as well: an edit that sets mtime back cannot set that."""
    return [stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]


def _load(path: Path) -> dict[str, list[object]]:
    try:
        entries = json.loads(path.read_text())
    except (FileNotFoundError, json.JSONDecodeError, UnicodeDecodeError):
        return {}
    if not isinstance(entries, dict):
        return {}
    return {key: value for key, value in entries.items() if isinstance(value, list) and len(value) == 5}

"""sha256 of files, remembered by (path, inode, size, mtime, ctime) so that a no-op reads nothing."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
import time
from pathlib import Path

from pipeline.source.listing import SourceFile

MEMO_NAME = "source-digests.json"
CHUNK = 1 << 20
# A file written this recently could be written again within one tick of the file system's clock: not remembered.
SETTLED_NS = 50_000_000


class DigestMemo:
    """Digests of files by identity, kept in `folder`. A damaged memo is dropped: every entry can be computed again."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / MEMO_NAME
        self._entries = _load(self._path)
        self._changed = False
        self.hashed: list[Path] = []

    def describe(self, path: Path) -> SourceFile:
        """`path` with its size and sha256; reads the file only when its identity is not known."""
        real = path.resolve()
        stat = real.stat()
        key = str(real)
        identity = _identity(stat)
        known = self._entries.get(key)
        if known is not None and known[:-1] == identity:
            return SourceFile(real, str(known[-1]), stat.st_size)
        digest = sha256_of(real)
        self.hashed.append(real)
        if time.time_ns() - stat.st_mtime_ns > SETTLED_NS:
            self._entries[key] = [*identity, digest]
            self._changed = True
        return SourceFile(real, digest, stat.st_size)

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


def sha256_of(path: Path) -> str:
    """Lower-case hex sha256 of a file's bytes, read in pieces of one MiB."""
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while piece := file.read(CHUNK):
            digest.update(piece)
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

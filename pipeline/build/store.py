"""The store: records say what an action made, blobs are the bytes. A record is the only truth.

    ac/<stage>/<key>.json  a record: ingredients of the key, and name → (sha256, size) of every output file
    blobs/ab/<sha256>      one file's bytes, read-only, named by their digest
    tmp/ locks/ logs/      work in hand, locks, the logs of workers and the reports of refused products

Files are hashed, renamed into blobs/ and only then named by a record, which is written beside, fsynced and moved into
place. A kill at any moment leaves either no record or a whole one. Blobs are not fsynced (a gigabyte takes seconds):
what a power cut damages is found by size and digest, as a blob is hashed again before any stage or product gets it.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pipeline.build.canonical import digest
from pipeline.build.stage import Digests
from pipeline.errors import StageFailed

RECORD_FORMAT = 1
CHUNK = 1 << 20
FOLDERS = ("ac", "blobs", "tmp", "locks", "logs")


@dataclass(frozen=True)
class Blob:
    """One output file: sha256 in lower-case hex, size in bytes."""

    sha256: str
    size: int


@dataclass(frozen=True)
class Record:
    """What one action made. `key` is the digest of `ingredients`; `label` is for people, and for `plan`."""

    key: str
    stage: str
    label: str
    ingredients: Mapping[str, Any]
    files: Mapping[str, Blob]
    seconds: float = 0.0
    notes: tuple[str, ...] = ()
    figures: Mapping[str, Any] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        """Sum of the output files' sizes."""
        return sum(blob.size for blob in self.files.values())

    @property
    def output(self) -> str:
        """Digest over names and content of the output."""
        return digest("tree", {name: [blob.sha256, blob.size] for name, blob in self.files.items()})

    def to_json(self) -> str:
        """One line of JSON that carries its own checksum."""
        body = {"format": RECORD_FORMAT, **asdict(self)}
        return json.dumps({**body, "checksum": digest("record", json.loads(json.dumps(body)))}, sort_keys=True)

    @staticmethod
    def from_json(text: str) -> Record:
        """Raises ValueError for anything but a whole record of this format."""
        body = json.loads(text)
        if not isinstance(body, dict) or body.get("format") != RECORD_FORMAT:
            raise ValueError("not a record of this format")
        checksum = body.pop("checksum", "")
        if checksum != digest("record", body):
            raise ValueError("the record's checksum is wrong")
        body.pop("format")
        files = {name: Blob(**blob) for name, blob in body.pop("files").items()}
        return Record(files=files, notes=tuple(body.pop("notes")), **body)


class Store:
    """Records and blobs under one folder. Safe for many threads and processes at once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        # Blobs that this process hashed: sha256 → the file's identity then. ctime cannot be set back, so an unchanged
        # identity within one run means unchanged bytes; no identity is trusted across runs.
        self._hashed: dict[str, tuple[int, ...]] = {}
        self.dropped: list[str] = []

    def create(self) -> None:
        """Make the folders. Raises UserError-like StageFailed when the place cannot be written."""
        with disk_full(self.root):
            for name in FOLDERS:
                (self.root / name).mkdir(parents=True, exist_ok=True)

    def record_path(self, stage: str, key: str) -> Path:
        """Where the record of `key` is, or would be."""
        return self.root / "ac" / stage / f"{key}.json"

    def blob_path(self, sha256: str) -> Path:
        """Where the blob is, or would be."""
        return self.root / "blobs" / sha256[:2] / sha256

    def lock_path(self, name: str) -> Path:
        """The lock file of an action's key, or of a name."""
        return self.root / "locks" / name

    def log_path(self, stage: str, key: str) -> Path:
        """The log of the worker that builds `key`."""
        return self.root / "logs" / f"{stage}-{key[:16]}.log"

    def find(self, stage: str, key: str) -> Record | None:
        """The record of `key`, or None. A damaged one is dropped and said: it is as good as none."""
        path = self.record_path(stage, key)
        try:
            return Record.from_json(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, KeyError, AttributeError):
            self.dropped.append(f"the record {stage} {key[:12]} was damaged: dropped")
            path.unlink(missing_ok=True)
            return None

    def records(self, stage: str = "*") -> Iterator[Record]:
        """Every record (of one stage) that can be read, newest first."""
        paths = sorted((self.root / "ac").glob(f"{stage}/*.json"), key=lambda path: (-_mtime(path), path.name))
        for path in paths:
            if (record := self.find(path.parent.name, path.stem)) is not None:
                yield record

    def publish(self, record: Record) -> None:
        """Write the record; from then on the action has happened. Its blobs must be there."""
        with disk_full(self.root):
            write_atomically(
                self.record_path(record.stage, record.key), record.to_json().encode(), self.root / "tmp", sync=True
            )

    def touch(self, record: Record) -> None:
        """Note that the record was of use: gc removes what was not for longest."""
        with suppress(OSError):
            os.utime(self.record_path(record.stage, record.key))

    def forget(self, stage: str, key: str) -> None:
        """Remove the record; blobs stay until gc."""
        self.record_path(stage, key).unlink(missing_ok=True)

    def take(self, folder: Path, digests: Digests = MappingProxyType({})) -> dict[str, Blob]:
        """Move every file below `folder` into blobs/, hashed by threads. Name (POSIX, relative) → Blob.

        digests: of files that were hashed while they were written, which are not read again.

        Raises StageFailed for anything but regular files (a link could point outside what the action declared).
        """
        paths = sorted(path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
        for path in paths:
            if path.is_symlink() or not path.is_file():
                raise StageFailed(f"the stage wrote {path.relative_to(folder)}, which is not a regular file")
        with disk_full(self.root), ThreadPoolExecutor(4) as pool:
            names = [path.relative_to(folder).as_posix() for path in paths]
            return dict(zip(names, pool.map(self.add, paths, map(digests.get, names)), strict=True))

    def add(self, path: Path, sha256: str | None = None) -> Blob:
        """Move one file of this file system into blobs/. A good older copy stays (it may be in use), a bad one goes.

        sha256: its digest where that is known.
        """
        blob = Blob(sha256 or hash_file(path), path.stat().st_size)
        target = self.blob_path(blob.sha256)
        if target.exists() and self.verified(blob):
            path.unlink()
            return blob
        path.chmod(0o444)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(path, target)
        self._hashed[blob.sha256] = identity(target)
        return blob

    def has(self, blob: Blob) -> bool:
        """Whether a file of that name and size is there; says nothing of its bytes."""
        try:
            return self.blob_path(blob.sha256).stat().st_size == blob.size
        except FileNotFoundError:
            return False

    def verified(self, blob: Blob) -> bool:
        """Whether the blob is there with the right bytes. A wrong one is dropped and said."""
        path = self.blob_path(blob.sha256)
        try:
            if self._hashed.get(blob.sha256) == identity(path):
                return True
            good = path.stat().st_size == blob.size and hash_file(path) == blob.sha256
        except FileNotFoundError:
            return False
        if good:
            self._hashed[blob.sha256] = identity(path)
        else:
            self.dropped.append(f"blob {blob.sha256[:12]} was damaged: dropped, and built or fetched again")
            path.unlink(missing_ok=True)
        return good

    def scratch(self, prefix: str) -> Path:
        """A new folder under tmp/ for one action's work."""
        with disk_full(self.root):
            (self.root / "tmp").mkdir(parents=True, exist_ok=True)
            return Path(tempfile.mkdtemp(prefix=f"{prefix}-", dir=self.root / "tmp"))


def identity(path: Path) -> tuple[int, ...]:
    """(inode, size, mtime, ctime): changes with every write, also one that sets mtime back."""
    stat = path.stat()
    return stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def hash_file(path: Path) -> str:
    """sha256 of a file in lower-case hex; reads pieces of one MiB."""
    hasher = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while piece := file.read(CHUNK):
            hasher.update(piece)
    return hasher.hexdigest()


def write_atomically(path: Path, data: bytes, scratch: Path, sync: bool = False) -> None:
    """Write beside and move into place: a reader sees the old file or the whole new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=scratch)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(name)
        raise


@contextmanager
def disk_full(place: Path) -> Iterator[None]:
    """Turn "no space", "quota" and "read-only" into one line that names the place."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM):
            raise
        raise StageFailed(
            out_of_space(place, error), "free some space (doit gc --keep 5GB), or set cache.dir=DIR"
        ) from None


def out_of_space(place: Path, error: OSError) -> str:
    """The line for an error of `disk_full`."""
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return f"cannot write under {place}: {os.strerror(error.errno or 0).lower()}"
    existing = next(folder for folder in (place, *place.parents) if folder.exists())
    return f"the disk of {place} is full ({shutil.disk_usage(existing).free >> 20} MiB left)"


def _mtime(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0

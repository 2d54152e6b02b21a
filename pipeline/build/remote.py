"""A store that machines share: records and blobs under any fsspec URL.

    <url>/ac/<stage>/<key>.json     <url>/blobs/ab/<sha256>

Nothing that a remote does can fail a build that could be done here. Whatever comes from it is checked: a record must be
the one of its key, a blob must have its digest. A remote that is missing, refuses or is slow is said once and then left
alone for the rest of the run; one wrong blob is said, and built here. Blobs are written first and the record last, each
in one step and only where there is nothing yet.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pipeline.build import pinned
from pipeline.build.canonical import digest
from pipeline.build.stage import Log
from pipeline.build.store import CHUNK, Blob, Record, Store

Result = TypeVar("Result")
# Object stores show an object when it is whole; file systems show it while it grows, so there it gets its name last.
ATOMIC_PUT = ("s3", "s3a", "gs", "gcs", "abfs", "az", "memory")
STREAMS = 4
RECORD_SECONDS = 10.0
STALL_SECONDS = 30.0


class Slow(Exception):
    """A remote that did not move in time."""


class Lie(Exception):
    """Bytes that are not what they are called."""


@dataclass
class Remote:
    """One remote of one run. mode: "read" or "readwrite". say: one line for a person. Safe for many threads."""

    url: str
    mode: str
    say: Callable[[str], None]
    record_seconds: float = RECORD_SECONDS
    stall_seconds: float = STALL_SECONDS
    downloaded: int = 0
    uploaded: int = 0
    _broken: bool = False
    _said: set[str] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _wrong: set[str] = field(default_factory=set)
    _pool: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(STREAMS))
    _uploads: list[Any] = field(default_factory=list)

    def find(self, stage: str, key: str) -> Record | None:
        """The remote's record of `key`, or None: there is none, it is not the key's, or the remote has a fault."""
        if self._broken:
            return None
        try:
            data = in_time(lambda: self._system().cat_file(self._record(stage, key)), self.record_seconds)
            return checked_record(data, stage, key)
        except FileNotFoundError:
            return None
        except Lie as lie:
            self._say(f"cache.remote: the record of {stage} is not what it should be ({lie}): ignored")
        except Exception as error:
            self._give_up(error)
        return None

    def fetch(self, blobs: Iterable[Blob], store: Store, log: Log) -> set[str]:
        """Digests of those blobs that are now in `store`, verified. Large sets move in parallel; `log` gets bytes."""
        wanted = [blob for blob in dict.fromkeys(blobs) if blob.sha256 not in self._wrong]
        if self._broken or not wanted:
            return set()
        counter = _Counter(sum(blob.size for blob in wanted), log)
        arrived = self._pool.map(lambda blob: self._fetch_one(blob, store, counter), wanted)
        return {blob.sha256 for blob, good in zip(wanted, arrived, strict=True) if good}

    def upload(self, record: Record, store: Store) -> None:
        """Start to send the record's blobs, then the record, if the mode allows it. `finish` waits."""
        if self.mode == "readwrite" and not self._broken:
            self._uploads.append(self._pool.submit(self._upload, record, store))

    def finish(self) -> None:
        """Wait for uploads."""
        for upload in self._uploads:
            upload.result()
        self._uploads.clear()
        self._pool.shutdown(wait=False)

    def _fetch_one(self, blob: Blob, store: Store, counter: _Counter) -> bool:
        if self._broken:
            return False
        try:
            self._download(blob, store, counter)
        except FileNotFoundError:
            return False  # the record came before its blob, or the blob was swept: build it here
        except Lie as lie:
            self._wrong.add(blob.sha256)
            self._say(f"cache.remote: {lie}: ignored, and built here")
            return False
        except Exception as error:
            self._give_up(error)
            return False
        self.downloaded += blob.size
        return True

    def _download(self, blob: Blob, store: Store, counter: _Counter) -> None:
        scratch = store.scratch("fetch")
        target = scratch / blob.sha256
        try:
            sha256 = watched(lambda tick: self._stream(blob, target, tick, counter), self.stall_seconds)
            if sha256 != blob.sha256:
                raise Lie(f"blob {blob.sha256[:12]} holds other bytes")
            store.add(target)
        finally:
            with contextlib.suppress(FileNotFoundError):
                target.unlink()
            scratch.rmdir()

    def _stream(self, blob: Blob, target: Path, tick: Callable[[], None], counter: _Counter) -> str:
        hasher, size = hashlib.sha256(), 0
        with self._system().open(self._blob(blob), "rb") as reader, target.open("wb") as writer:
            while piece := reader.read(CHUNK):
                size += len(piece)
                if size > blob.size:
                    raise Lie(f"blob {blob.sha256[:12]} is longer than {blob.size} bytes")
                hasher.update(piece)
                writer.write(piece)
                tick()
                counter.add(len(piece))
        if size != blob.size:
            raise Lie(f"blob {blob.sha256[:12]} has {size} of {blob.size} bytes")
        return hasher.hexdigest()

    def _upload(self, record: Record, store: Store) -> None:
        if self._broken:
            return
        try:
            for blob in dict.fromkeys(record.files.values()):
                if record.stage != pinned.STAGE and store.verified(blob):
                    self._put(self._blob(blob), store.blob_path(blob.sha256), blob)
            if all(store.has(blob) for blob in record.files.values()) or record.stage == pinned.STAGE:
                data = record.to_json().encode()
                in_time(lambda: self._create(self._record(record.stage, record.key), data), self.record_seconds)
        except Exception as error:
            self._give_up(error)

    def _put(self, path: str, source: Path, blob: Blob) -> None:
        seconds = self.stall_seconds + blob.size / 100_000
        if blob.sha256 not in self._wrong and in_time(lambda: self._size(path), self.record_seconds) == blob.size:
            return
        in_time(lambda: self._put_file(path, source), seconds)
        self.uploaded += blob.size

    def _put_file(self, path: str, source: Path) -> None:
        system = self._system()
        if self._atomic():
            system.put_file(str(source), path)  # named by its digest: writing it twice writes the same
            return
        with self._renamed(path) as scratch:
            system.put_file(str(source), scratch)

    def _create(self, path: str, data: bytes) -> None:
        """Write a record where there is none yet; somebody else's stays."""
        system = self._system()
        if self._atomic():
            with contextlib.suppress(FileExistsError):
                system.pipe_file(path, data, mode="create")
        elif not system.exists(path):
            with self._renamed(path) as scratch:
                system.pipe_file(scratch, data)

    @contextlib.contextmanager
    def _renamed(self, path: str) -> Iterator[str]:
        system = self._system()
        scratch = f"{path}.{os.getpid()}-{uuid.uuid4().hex}.part"
        system.makedirs(path.rpartition("/")[0], exist_ok=True)
        try:
            yield scratch
            system.mv(scratch, path)
        except BaseException:
            with contextlib.suppress(Exception):
                system.rm_file(scratch)
            raise

    def _size(self, path: str) -> int | None:
        try:
            return int(self._system().info(path)["size"])
        except FileNotFoundError:
            return None

    def _system(self) -> Any:
        """The file system. fsspec is imported here: a build without a remote never pays for it."""
        import fsspec

        return fsspec.core.url_to_fs(self.url, use_listings_cache=False)[0]

    def _atomic(self) -> bool:
        return self.url.partition("://")[0] in ATOMIC_PUT

    def _record(self, stage: str, key: str) -> str:
        return f"{self._root()}/ac/{stage}/{key}.json"

    def _blob(self, blob: Blob) -> str:
        return f"{self._root()}/blobs/{blob.sha256[:2]}/{blob.sha256}"

    def _root(self) -> str:
        return self.url.rstrip("/")

    def _give_up(self, error: Exception) -> None:
        self._broken = True
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        self._say(f"cache.remote={self.url}: {reason}: going on without it")

    def _say(self, text: str) -> None:
        with self._lock:
            if text in self._said or (self._broken and any("going on without it" in line for line in self._said)):
                return
            self._said.add(text)
        self.say(text)


def checked_record(data: bytes, stage: str, key: str) -> Record:
    """The record, if its ingredients really have this key. Raises Lie."""
    try:
        record = Record.from_json(data.decode("utf-8"))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise Lie(f"damaged: {error}") from None
    if record.stage != stage or record.key != key:
        raise Lie("it is the record of another action")
    if digest("source-action" if stage == pinned.STAGE else "action", dict(record.ingredients)) != key:
        raise Lie("its ingredients have another key")
    return record


def in_time(action: Callable[[], Result], seconds: float) -> Result:
    """The action's result. Raises Slow after `seconds`; the thread is left to end by itself (it is a daemon)."""
    return watched(lambda tick: action(), seconds)


def watched(action: Callable[[Callable[[], None]], Result], seconds: float) -> Result:
    """The result of an action that calls its argument whenever it moves. Raises Slow when it has not for `seconds`."""
    outcome: list[Result] = []
    errors: list[BaseException] = []
    last = [time.monotonic()]
    ended = threading.Event()

    def tick() -> None:
        last[0] = time.monotonic()

    def run() -> None:
        try:
            outcome.append(action(tick))
        except BaseException as error:
            errors.append(error)
        finally:
            ended.set()

    threading.Thread(target=run, daemon=True, name="remote").start()
    while not ended.wait(max(0.01, min(1.0, last[0] + seconds - time.monotonic()))):
        if time.monotonic() - last[0] > seconds:
            raise Slow(f"nothing came for {seconds:g} s")
    if errors:
        raise errors[0]
    return outcome[0]


class _Counter:
    """Bytes of several downloads as one bar."""

    def __init__(self, total: int, log: Log) -> None:
        self._total = total
        self._log = log
        self._done = 0
        self._lock = threading.Lock()

    def add(self, count: int) -> None:
        with self._lock:
            self._done += count
            self._log.progress(self._done, self._total, "download")

"""Records of what hubs' repositories held at a commit: a pinned model needs no hub a second time."""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path

from pipeline.source.digest import DigestMemo
from pipeline.source.directory import describe_files
from pipeline.source.listing import SourceListing

COMMIT = re.compile(r"[0-9a-f]{40}")


class SnapshotRecords:
    """Records under `cache_dir`/sources, by hub, repository, commit and the flags that choose files."""

    def __init__(self, cache_dir: Path, hub: str, repo: str, flags: tuple[bool, ...]) -> None:
        self._folder = cache_dir / "sources"
        self._hub, self._repo, self._flags = hub, repo, flags

    def find(self, commit: str, memo: DigestMemo) -> SourceListing | None:
        """The listing at `commit` if it was recorded and every file still lies there; else None."""
        record = self._read(commit)
        names, place = record.get("names"), record.get("folder")
        if not isinstance(names, list) or not isinstance(place, str):
            return None
        folder = Path(place)
        if not all((folder / name).is_file() for name in names):
            return None
        return SourceListing(describe_files(folder, names, memo), commit, self._hub)

    def write(self, branch: str, commit: str, folder: Path, names: list[str]) -> None:
        """Record the snapshot, and that `branch` stood at `commit`."""
        self._write(commit, {"folder": str(folder), "names": names})
        self._write(branch, {"commit": commit, "folder": str(folder), "names": names})

    def folder(self, revision: str) -> Path | None:
        """Where the files of `revision` (a branch: as it last stood) lie, if they were fetched and are there yet."""
        record = self._read(revision)
        names, place = record.get("names"), record.get("folder")
        if not isinstance(names, list) or not isinstance(place, str):
            return None
        return Path(place) if all((Path(place) / name).is_file() for name in names) else None

    def last_commit(self, branch: str) -> str:
        """The commit that `branch` stood at when it was last resolved, or ""."""
        commit = self._read(branch).get("commit", "")
        return commit if isinstance(commit, str) else ""

    def _path(self, revision: str) -> Path:
        identity = json.dumps(["snapshot", self._hub, self._repo, revision, list(self._flags)])
        return self._folder / f"{hashlib.sha256(identity.encode()).hexdigest()[:32]}.json"

    def _read(self, revision: str) -> dict[str, object]:
        try:
            record = json.loads(self._path(revision).read_text())
        except (FileNotFoundError, json.JSONDecodeError, UnicodeDecodeError):
            return {}
        return record if isinstance(record, dict) else {}

    def _write(self, revision: str, record: dict[str, object]) -> None:
        path = self._path(revision)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        temporary.write_text(json.dumps(record, sort_keys=True))
        os.replace(temporary, path)

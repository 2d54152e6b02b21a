"""Sweeping the store. Roots are the products on disk, the lock file and young records; the rest goes, oldest first.

Builders hold the store's gc lock together, the sweep holds it alone: nothing is swept under a running build.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.build.locks import try_exclusive
from pipeline.build.store import Record, Store
from pipeline.errors import StageFailed, UserError

UNITS = {
    "": 1,
    "b": 1,
    "k": 10**3,
    "kb": 10**3,
    "m": 10**6,
    "mb": 10**6,
    "g": 10**9,
    "gb": 10**9,
    "t": 10**12,
    "tb": 10**12,
}
UNITS |= {"kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "tib": 1 << 40}
TIMES = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
# A record this young belongs to work in hand: the next command of the same person will want it.
YOUNG_SECONDS = 3600.0


@dataclass
class Sweep:
    """What was, or would be, removed; bytes freed."""

    records: list[Record] = field(default_factory=list)
    blobs: list[Path] = field(default_factory=list)
    scratch: list[Path] = field(default_factory=list)
    freed: int = 0
    left: int = 0


def parse_size(text: str) -> int:
    """ "20GB", "1.5 GiB", "500k" → bytes. Raises UserError."""
    found = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([a-zA-Z]*)\s*", text)
    if not found or found[2].lower() not in UNITS:
        raise UserError(f"--keep {text}: a size was expected", "write --keep 20GB")
    return int(float(found[1]) * UNITS[found[2].lower()])


def parse_age(text: str) -> float:
    """ "30d", "12h", "45m" → seconds. Raises UserError."""
    found = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([smhdw])\s*", text)
    if not found:
        raise UserError(f"--older-than {text}: an age was expected", "write --older-than 30d")
    return float(found[1]) * TIMES[found[2]]


def sweep(
    store: Store,
    roots: Iterable[str],
    keep: int | None = None,
    older_than: float | None = None,
    dry_run: bool = False,
    young: float = YOUNG_SECONDS,
) -> Sweep:
    """Remove records that are no root, oldest use first, until blobs take at most `keep` bytes or all are younger than
    `older_than` seconds; then every blob that no record names, and what killed builds left in tmp/.

    Raises StageFailed while a build runs on this store.
    """
    handle = try_exclusive(store.lock_path("gc"))
    if handle is None:
        raise StageFailed("a build is running on this store", "run doit gc when it has ended")
    try:
        done = _choose(store, frozenset(roots), keep, older_than, young)
        if not dry_run:
            _remove(store, done)
        return done
    finally:
        os.close(handle)


def product_roots(artifacts: Path) -> set[str]:
    """Keys of the actions that the products on disk came from."""
    roots: set[str] = set()
    for manifest in sorted(artifacts.glob("*/manifest.json")):
        try:
            roots |= _keys(json.loads(manifest.read_text(encoding="utf-8")))
        except ValueError:
            continue  # not ours, or damaged: it roots nothing
    return roots


def lock_roots(lock: Path) -> set[str]:
    """Keys of the actions that the lock file names."""
    if not lock.is_file():
        return set()
    products = json.loads(lock.read_text(encoding="utf-8")).get("products", {})
    return {key for product in products.values() for key in _keys(product)}


def _keys(described: Mapping[str, Any]) -> set[str]:
    return {stage["key"] for stage in described.get("stages", {}).values()}


def _choose(store: Store, roots: frozenset[str], keep: int | None, older_than: float | None, young: float) -> Sweep:
    now = time.time()
    ages = {record.key: now - store.record_path(record.stage, record.key).stat().st_mtime for record in store.records()}
    records = sorted(store.records(), key=lambda record: (-ages[record.key], record.key))
    users: dict[str, int] = {}
    for record in records:
        for blob in record.files.values():
            users[blob.sha256] = users.get(blob.sha256, 0) + 1
    sizes = {path.name: path.stat().st_size for path in (store.root / "blobs").glob("*/*")}
    total = sum(size for name, size in sizes.items() if name in users)
    done = Sweep(scratch=sorted((store.root / "tmp").iterdir()))
    for record in records:
        if record.key in roots or ages[record.key] < young or not _must_go(ages[record.key], total, keep, older_than):
            continue
        done.records.append(record)
        for blob in record.files.values():
            users[blob.sha256] -= 1
            if not users[blob.sha256]:
                total -= sizes.get(blob.sha256, 0)
    done.blobs = [store.blob_path(name) for name in sorted(sizes) if not users.get(name)]
    done.freed, done.left = sum(sizes[path.name] for path in done.blobs), total
    return done


def _must_go(age: float, total: int, keep: int | None, older_than: float | None) -> bool:
    return (older_than is not None and age > older_than) or (keep is not None and total > keep)


def _remove(store: Store, done: Sweep) -> None:
    """Records first: a kill in between leaves blobs without a record, never a record that was meant to be whole."""
    for record in done.records:
        store.forget(record.stage, record.key)
    for path in done.blobs:
        path.unlink(missing_ok=True)
    for path in done.scratch:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    known = {record.key[:16] for record in store.records()}
    for path in sorted((store.root / "logs").iterdir()):
        if (
            path.name.partition(".")[0].rpartition("-")[2] not in known
            and time.time() - path.stat().st_mtime > YOUNG_SECONDS
        ):
            path.unlink()
    for path in (store.root / "locks").iterdir():
        if path.name != "gc":
            path.unlink()

"""`doit gc`: sweep the store down to a size or an age."""

from __future__ import annotations

from typing import Any

from tasks.failures import guarded

DEFAULT_KEEP = "20GB"
PARAMS = (
    {"name": "keep", "short": "", "long": "keep", "type": str, "default": "", "help": "size to come down to, 20GB"},
    {"name": "older_than", "short": "", "long": "older-than", "type": str, "default": "", "help": "age that goes, 30d"},
    {"name": "dry_run", "short": "", "long": "dry-run", "type": bool, "default": False, "help": "only say it"},
)


def task_gc() -> dict[str, Any]:
    """sweep the store: doit gc [--keep 20GB | --older-than 30d] [--dry-run]"""
    return {"actions": [guarded("gc", collect)], "params": PARAMS, "io": {"capture": False}}


def collect(keep: str, older_than: str, dry_run: bool) -> None:
    """Roots: products under artifacts/, pipeline.lock, records of the last hour. Raises UserError, StageFailed."""
    from pipeline.build import gc
    from pipeline.build.console import size
    from pipeline.build.lockfile import LOCK_FILE
    from pipeline.build.store import Store
    from tasks.places import artifacts, home, store_folder

    store = Store(store_folder())
    store.create()
    limit = gc.parse_size(keep or DEFAULT_KEEP) if keep or not older_than else None
    age = gc.parse_age(older_than) if older_than else None
    roots = gc.product_roots(artifacts()) | gc.lock_roots(home() / LOCK_FILE)
    done = gc.sweep(store, roots, limit, age, dry_run)
    verb = "would remove" if dry_run else "removed"
    print(f"{verb} {len(done.records)} records and {len(done.blobs)} files, {size(done.freed)}; {size(done.left)} stay")

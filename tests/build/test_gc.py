"""Sweeping: what is rooted stays, the least recently used goes, never under a running build."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from pipeline.build import gc
from pipeline.build.locks import shared
from pipeline.build.store import Store
from pipeline.errors import StageFailed, UserError
from tests.build.project import Project


def age(store: Store, seconds: float, stage: str = "*") -> None:
    for path in (store.root / "ac").glob(f"{stage}/*.json"):
        os.utime(path, (time.time() - seconds,) * 2)


def sweep(project: Project, roots: set[str] | None = None, **options: Any) -> gc.Sweep:
    return gc.sweep(project.engine().store, roots or set(), **options)


def blob_bytes(project: Project) -> int:
    return sum(path.stat().st_size for path in (project.root / "store/blobs").glob("*/*"))


def test_young_records_stay_whatever_the_size(project: Project) -> None:
    project.build()
    assert sweep(project, keep=0).records == []
    assert set(project.build().values()) == {"hit"}


def test_old_records_go_down_to_the_size(project: Project) -> None:
    project.build()
    store = project.engine().store
    age(store, 7200)
    total = blob_bytes(project)
    done = sweep(project, keep=total - 1)
    assert len(done.records) >= 1
    assert blob_bytes(project) == done.left <= total - 1
    assert done.freed == total - done.left


def test_the_least_recently_used_goes_first(project: Project) -> None:
    project.build()
    store = project.engine().store
    age(store, 7200)
    age(store, 9999, "weights")
    done = sweep(project, keep=blob_bytes(project) - 1)
    assert done.records[0].stage == "weights"


def test_a_hit_makes_a_record_young(project: Project) -> None:
    project.build()
    age(project.engine().store, 7200)
    project.build()
    assert sweep(project, keep=0).records == []


def test_by_age(project: Project) -> None:
    project.build()
    age(project.engine().store, 7200, "graph")
    done = sweep(project, older_than=3700)
    assert [record.stage for record in done.records] == ["graph"]


def test_products_on_the_disk_are_roots(project: Project) -> None:
    project.export()
    age(project.engine().store, 10**6)
    roots = gc.product_roots(project.root / "artifacts")
    assert sweep(project, roots, keep=0).records == []
    assert project.export().how == "hit"


def test_the_lock_file_is_a_root(project: Project) -> None:
    project.build()
    keys = {record.stage: record.key for record in project.engine().store.records()}
    lock = project.root / "pipeline.lock"
    stages = {"graph": {"key": keys["graph"]}}
    lock.write_text(json.dumps({"format": 1, "products": {"toy": {"stages": stages}}}))
    age(project.engine().store, 10**6)
    sweep(project, gc.lock_roots(lock), keep=0)
    assert [record.stage for record in project.engine().store.records()] == ["graph"]


def test_a_dry_run_removes_nothing(project: Project) -> None:
    project.build()
    age(project.engine().store, 7200)
    before = blob_bytes(project)
    done = sweep(project, keep=0, dry_run=True)
    assert len(done.records) == 6 and done.freed == before == blob_bytes(project)
    assert set(project.build().values()) == {"hit"}


def test_blobs_without_a_record_and_leftovers_of_killed_builds_go(project: Project) -> None:
    project.build()
    store = project.engine().store
    orphan = store.scratch("killed") / "file"
    orphan.write_text("half")
    other = store.scratch("killed") / "file"
    other.write_text("whole, but its record was never written")
    blob = store.add(other)
    sweep(project)
    assert not orphan.exists() and not store.blob_path(blob.sha256).exists()
    assert list((store.root / "tmp").iterdir()) == []
    assert set(project.build().values()) == {"hit"}


def test_a_swept_stage_is_built_again(project: Project) -> None:
    project.build()
    age(project.engine().store, 7200)
    sweep(project, keep=0)
    assert blob_bytes(project) == 0
    assert set(project.build().values()) == {"built"}


def test_never_under_a_running_build(project: Project) -> None:
    project.build()
    store = project.engine().store
    with shared(store.lock_path("gc")), pytest.raises(StageFailed, match="a build is running on this store"):
        gc.sweep(store, set(), keep=0)


@pytest.mark.parametrize(
    "text, expected", [("20GB", 20 * 10**9), ("1.5 GiB", 3 << 29), ("500k", 500_000), ("7", 7), ("0", 0)]
)
def test_sizes(text: str, expected: int) -> None:
    assert gc.parse_size(text) == expected


@pytest.mark.parametrize("text, expected", [("30d", 2592000), ("12h", 43200), ("1.5m", 90), ("2w", 1209600)])
def test_ages(text: str, expected: float) -> None:
    assert gc.parse_age(text) == expected


@pytest.mark.parametrize("text", ["", "GB", "-1GB", "20 parsecs", "1e9"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(UserError, match="a size was expected"):
        gc.parse_size(text)


@pytest.mark.parametrize("text", ["", "30", "d", "1y"])
def test_what_is_no_age(text: str) -> None:
    with pytest.raises(UserError, match="an age was expected"):
        gc.parse_age(text)


def test_a_foreign_folder_among_the_products_roots_nothing(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x/manifest.json").write_text("not json")
    assert gc.product_roots(tmp_path) == set()

"""The store: whole or absent, never half; damage is found."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest

from pipeline.build import store as store_module
from pipeline.build.store import Blob, Record, Store, disk_full, hash_file, write_atomically
from pipeline.errors import StageFailed

KEY = "ab" * 32


@pytest.fixture
def store(tmp_path: Path) -> Store:
    place = Store(tmp_path / "store")
    place.create()
    return place


def add(store: Store, text: str) -> Blob:
    path = store.scratch("t") / "file"
    path.write_text(text)
    return store.add(path)


def record(blob: Blob, key: str = KEY, stage: str = "graph") -> Record:
    return Record(key, stage, "toy", {"stage": stage}, {"out.bin": blob}, 1.5, ("a note",))


def test_a_record_comes_back_as_it_was(store: Store) -> None:
    one = record(add(store, "text"))
    store.publish(one)
    assert Store(store.root).find("graph", KEY) == one


def test_no_record_is_none(store: Store) -> None:
    assert store.find("graph", KEY) is None
    assert store.dropped == []


def test_every_flipped_byte_of_a_record_is_found(store: Store) -> None:
    store.publish(record(add(store, "text")))
    path = store.record_path("graph", KEY)
    whole = path.read_bytes()
    original = Record.from_json(whole.decode())
    for position in range(0, len(whole), 7):
        damaged = bytearray(whole)
        damaged[position] ^= 1
        path.write_bytes(bytes(damaged))
        found = store.find("graph", KEY)
        assert found is None or found == original, f"byte {position}"
        assert found is not None or not path.exists()


@pytest.mark.parametrize("text", ["", "{", "null", "[]", '{"format": 1}', '{"format": 99}', '"x"'])
def test_a_damaged_record_is_dropped_and_said(store: Store, text: str) -> None:
    path = store.record_path("graph", KEY)
    path.parent.mkdir(parents=True)
    path.write_text(text)
    assert store.find("graph", KEY) is None
    assert store.dropped == [f"the record graph {KEY[:12]} was damaged: dropped"]


def test_the_output_digest_is_of_names_and_content_only() -> None:
    one, other = Blob("1" * 64, 1), Blob("2" * 64, 1)
    base = record(one)
    assert base.output == Record("cd" * 32, "other", "", {}, {"out.bin": one}).output
    assert base.output != record(other).output
    assert base.output != Record(KEY, "graph", "", {}, {"out2.bin": one}).output


@pytest.mark.parametrize("keep_mtime", [False, True])
def test_one_flipped_byte_of_a_blob_is_found(store: Store, keep_mtime: bool) -> None:
    blob = add(store, "some bytes")
    assert store.verified(blob)
    path = store.blob_path(blob.sha256)
    stat = path.stat()
    path.chmod(0o644)
    path.write_text("some bytez")
    if keep_mtime:
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert store.has(blob)  # by name and size it is there
    assert not store.verified(blob)
    assert not path.exists()
    assert "was damaged" in store.dropped[0]


def test_a_new_process_trusts_no_stat(store: Store) -> None:
    blob = add(store, "some bytes")
    raw = store.blob_path(blob.sha256)
    raw.chmod(0o644)
    raw.write_text("some bytez")
    fresh = Store(store.root)
    assert not fresh.verified(blob)


def test_blobs_are_read_only_and_named_by_their_digest(store: Store) -> None:
    blob = add(store, "x")
    path = store.blob_path(blob.sha256)
    assert path.stat().st_mode & 0o777 == 0o444
    assert hash_file(path) == blob.sha256 == path.name


def test_a_damaged_blob_heals_when_it_is_made_again(store: Store) -> None:
    blob = add(store, "x")
    path = store.blob_path(blob.sha256)
    path.chmod(0o644)
    path.write_text("y")
    assert add(store, "x") == blob
    assert path.read_text() == "x"


def test_a_blob_in_use_is_not_replaced_by_its_equal(store: Store) -> None:
    blob = add(store, "x")
    inode = store.blob_path(blob.sha256).stat().st_ino
    add(store, "x")
    assert store.blob_path(blob.sha256).stat().st_ino == inode


def test_take_keeps_folders_and_order(store: Store) -> None:
    folder = store.scratch("t")
    for name in ("b.txt", "a/c.txt"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(name)
    assert list(store.take(folder)) == ["a/c.txt", "b.txt"]


def test_what_was_hashed_while_it_was_written_is_not_read_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = store.scratch("t")
    for name in ("known", "other"):
        (folder / name).write_text(name)
    read: list[str] = []

    def reading(path: Path) -> str:
        read.append(path.name)
        return hash_file(path)

    monkeypatch.setattr(store_module, "hash_file", reading)
    digests = {"known": hashlib.sha256(b"known").hexdigest(), "not written": "0" * 64}
    taken = store.take(folder, digests)
    assert read == ["other"]
    assert taken == {name: Blob(hashlib.sha256(name.encode()).hexdigest(), 5) for name in ("known", "other")}
    assert all(store.verified(blob) for blob in taken.values())
    fresh = Store(store.root)  # of another run, which believes nothing that it has not read
    assert all(fresh.verified(blob) for blob in taken.values())
    assert sorted(read) == sorted(["other", *(blob.sha256 for blob in taken.values())])


def test_a_wrong_digest_does_not_outlive_the_run(store: Store) -> None:
    folder = store.scratch("t")
    (folder / "file").write_text("other bytes than were hashed")
    blob = store.take(folder, {"file": hashlib.sha256(b"bytes").hexdigest()})["file"]
    assert store.verified(blob)
    fresh = Store(store.root)
    assert not fresh.verified(blob)
    assert "was damaged: dropped" in fresh.dropped[0]


@pytest.mark.parametrize(
    "make", [lambda p: p.symlink_to("/etc/passwd"), lambda p: os.mkfifo(p), lambda p: p.symlink_to(".")]
)
def test_only_regular_files_are_taken(store: Store, make: Any) -> None:
    folder = store.scratch("t")
    make(folder / "odd")
    with pytest.raises(StageFailed, match="odd, which is not a regular file"):
        store.take(folder)


def test_an_atomic_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    monkeypatch.setattr(os, "replace", _refuse)
    with pytest.raises(OSError):
        write_atomically(path, b"new", tmp_path)
    assert [one.name for one in tmp_path.iterdir()] == ["file"]
    assert path.read_text() == "old"


def _refuse(*arguments: Any) -> None:
    raise OSError(errno.EIO, "Input/output error")


@pytest.mark.parametrize(
    "code, words", [(errno.ENOSPC, "is full"), (errno.EDQUOT, "is full"), (errno.EROFS, "cannot write")]
)
def test_a_full_or_read_only_disk_is_one_line(tmp_path: Path, code: int, words: str) -> None:
    with pytest.raises(StageFailed, match=words), disk_full(tmp_path / "not" / "there"):
        raise OSError(code, "x")


def test_other_errors_of_the_system_pass_through(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="broken"), disk_full(tmp_path):
        raise OSError(errno.EIO, "broken")


def test_records_come_newest_first(store: Store) -> None:
    blob = add(store, "x")
    for number, key in enumerate(("aa" * 32, "bb" * 32)):
        store.publish(record(blob, key))
        os.utime(store.record_path("graph", key), (number, number))
    assert [one.key[:2] for one in store.records("graph")] == ["bb", "aa"]
    assert list(store.records("weights")) == []


def test_a_record_of_a_newer_format_is_not_read(store: Store) -> None:
    store.publish(record(add(store, "x")))
    path = store.record_path("graph", KEY)
    body = json.loads(path.read_text())
    path.write_text(json.dumps({**body, "format": 2}))
    assert store.find("graph", KEY) is None

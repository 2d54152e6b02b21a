"""The memo of digests: right for every change, and idle when nothing changed."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from pathlib import Path

import pytest

from pipeline.source.digest import MEMO_NAME, DigestMemo, sha256_of


def settled(path: Path, content: bytes) -> Path:
    """Write a file with a time stamp of some seconds ago."""
    path.write_bytes(content)
    past = time.time_ns() - 5_000_000_000
    os.utime(path, ns=(past, past))
    return path


def test_sha256_is_that_of_the_bytes(tmp_path: Path) -> None:
    content = os.urandom(3 << 20)
    assert sha256_of(settled(tmp_path / "a", content)) == hashlib.sha256(content).hexdigest()


def test_second_look_reads_nothing(tmp_path: Path) -> None:
    path = settled(tmp_path / "a", b"one")
    memo = DigestMemo(tmp_path / "cache")
    first = memo.describe(path)
    memo.save()
    again = DigestMemo(tmp_path / "cache")
    assert again.describe(path) == first
    assert memo.hashed == [path] and again.hashed == []


def test_changed_content_of_the_same_size_is_seen(tmp_path: Path) -> None:
    path = settled(tmp_path / "a", b"one")
    memo = DigestMemo(tmp_path)
    memo.describe(path)
    path.write_bytes(b"two")
    assert memo.describe(path).sha256 == hashlib.sha256(b"two").hexdigest()


def test_replaced_file_with_the_old_time_is_seen(tmp_path: Path) -> None:
    path = settled(tmp_path / "a", b"one")
    memo = DigestMemo(tmp_path)
    memo.describe(path)
    stamp = path.stat().st_mtime_ns
    other = settled(tmp_path / "b", b"two")
    os.utime(other, ns=(stamp, stamp))
    os.replace(other, path)
    assert memo.describe(path).sha256 == hashlib.sha256(b"two").hexdigest()


def test_file_written_this_moment_is_not_remembered(tmp_path: Path) -> None:
    path = tmp_path / "a"
    memo = DigestMemo(tmp_path)
    path.write_bytes(b"one")
    os.utime(path)
    memo.describe(path)
    assert memo.describe(path).sha256 == hashlib.sha256(b"one").hexdigest()
    assert len(memo.hashed) == 2


def test_symlink_is_known_by_its_target(tmp_path: Path) -> None:
    path = settled(tmp_path / "blob", b"one")
    (tmp_path / "link").symlink_to(path)
    memo = DigestMemo(tmp_path)
    assert memo.describe(tmp_path / "link") == memo.describe(path)
    assert len(memo.hashed) == 1


def test_damaged_memo_is_dropped(tmp_path: Path) -> None:
    for content in ("not json", "[]", '{"x": 3}', '{"x": [1]}', "\udcff"):
        (tmp_path / MEMO_NAME).write_text(content, errors="surrogateescape")
        path = settled(tmp_path / "a", b"one")
        assert DigestMemo(tmp_path).describe(path).sha256 == hashlib.sha256(b"one").hexdigest()


def test_save_leaves_no_temporary_file(tmp_path: Path) -> None:
    memo = DigestMemo(tmp_path / "cache")
    memo.describe(settled(tmp_path / "a", b"one"))
    memo.save()
    assert os.listdir(tmp_path / "cache") == [MEMO_NAME]


def test_many_files_are_described_in_order_and_remembered(tmp_path: Path) -> None:
    contents = [os.urandom(1000 * n) for n in range(1, 9)]
    paths = {f"n/{n}": settled(tmp_path / str(n), content) for n, content in enumerate(contents)}
    memo = DigestMemo(tmp_path / "cache")
    found = memo.describe_all(paths)
    assert list(found) == list(paths)
    assert [file.sha256 for file in found.values()] == [hashlib.sha256(content).hexdigest() for content in contents]
    assert [file.path for file in found.values()] == sorted(memo.hashed) == list(paths.values())
    memo.save()
    again = DigestMemo(tmp_path / "cache")
    assert again.describe_all(paths) == found and again.hashed == []


def test_who_asks_is_told_of_all_files_before_one_is_read(tmp_path: Path) -> None:
    paths = {name: settled(tmp_path / name, 100 * name.encode()) for name in "abc"}
    told: list[tuple[dict[str, Path], int, int]] = []
    memo = DigestMemo(tmp_path, reading=lambda files, size: told.append((dict(files), size, len(memo.hashed))))
    memo.describe_all(paths)
    assert told == [(paths, 300, 0)]
    memo.describe_all(paths)
    assert len(told) == 1  # nothing had to be read
    settled(paths["b"], b"other")
    memo.describe_all(paths)
    assert told[1:] == [(paths, 5, 3)]


def test_one_changed_file_of_many_is_read_alone(tmp_path: Path) -> None:
    paths = {name: settled(tmp_path / name, name.encode()) for name in "abc"}
    memo = DigestMemo(tmp_path / "cache")
    memo.describe_all(paths)
    memo.hashed.clear()
    settled(paths["b"], b"other")
    assert memo.describe_all(paths)["b"].sha256 == hashlib.sha256(b"other").hexdigest()
    assert memo.hashed == [paths["b"]]


def test_an_error_in_one_file_ends_the_others(tmp_path: Path) -> None:
    paths = [settled(tmp_path / name, b"x" * 5_000_000) for name in "abcdef"]
    memo = DigestMemo(tmp_path / "cache")
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError):
        memo.describe_all({path.name: path for path in (tmp_path / "folder", *paths)})
    assert len(memo.hashed) < len(paths)


def test_reading_ends_when_it_is_stopped(tmp_path: Path) -> None:
    stopped = threading.Event()
    stopped.set()
    with pytest.raises(RuntimeError, match="stopped reading"):
        sha256_of(settled(tmp_path / "a", b"x"), stopped)


class Progress:
    """A log that remembers what it was told."""

    def __init__(self) -> None:
        self.told: list[tuple[int, int, str]] = []

    def progress(self, done: int, total: int, what: str) -> None:
        self.told.append((done, total, what))

    def note(self, text: str) -> None:
        raise AssertionError(text)


def test_progress_ends_at_the_bytes_that_had_to_be_read(tmp_path: Path) -> None:
    paths = [settled(tmp_path / name, os.urandom(size)) for name, size in (("a", 3 << 20), ("b", 5 << 20), ("c", 100))]
    log = Progress()
    memo = DigestMemo(tmp_path / "cache", log)
    memo.describe(paths[2])
    log.told.clear()
    memo.describe_all({path.name: path for path in paths})
    assert max(log.told) == (8 << 20, 8 << 20, "sha256")
    log.told.clear()
    memo.describe_all({path.name: path for path in paths})
    assert log.told == []

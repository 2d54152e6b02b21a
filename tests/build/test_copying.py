"""Copies into products: the same bytes, an inode of their own, and no copy of a file that changes."""

from __future__ import annotations

import os
from pathlib import Path
from threading import Thread

import pytest

from pipeline.build import copying
from pipeline.build.copying import BEHIND, PIECE, copy_verified
from pipeline.build.store import Blob, hash_file
from pipeline.errors import StageFailed


def blob_of(path: Path) -> Blob:
    return Blob(hash_file(path), path.stat().st_size)


@pytest.mark.parametrize("size", [0, 1, PIECE, PIECE + 1, BEHIND + 3 * PIECE + 7])
def test_a_copy_has_the_same_bytes(tmp_path: Path, size: int) -> None:
    source, target = tmp_path / "source", tmp_path / "deep" / "target"
    source.write_bytes(os.urandom(min(size, PIECE)) + bytes(max(0, size - PIECE)))
    copy_verified(source, target, blob_of(source))
    assert hash_file(target) == hash_file(source)
    assert target.stat().st_size == size


def test_a_copy_can_be_edited_without_the_source(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(b"stored")
    copy_verified(source, target, blob_of(source))
    target.write_bytes(b"edited")
    assert source.read_bytes() == b"stored"
    assert source.stat().st_ino != target.stat().st_ino


def test_a_source_of_another_size_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"stored")
    with pytest.raises(StageFailed, match="changed while it was copied"):
        copy_verified(source, tmp_path / "target", Blob("0" * 64, 7))


def test_a_source_that_changes_meanwhile_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Same size, other bytes, written by another thread after the first piece was copied."""
    source = tmp_path / "source"
    source.write_bytes(bytes(4 * PIECE))
    blob, advise = blob_of(source), os.posix_fadvise

    def overwrite() -> None:
        with source.open("r+b") as file:
            file.write(b"x")

    def advise_and_overwrite(*arguments: int) -> None:
        thread = Thread(target=overwrite)
        thread.start()
        thread.join()
        advise(*arguments)

    monkeypatch.setattr(copying, "_clone", lambda reader, writer: False)
    monkeypatch.setattr(copying.os, "posix_fadvise", advise_and_overwrite)
    with pytest.raises(StageFailed, match="changed while it was copied"):
        copy_verified(source, tmp_path / "target", blob)

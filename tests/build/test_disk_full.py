"""A disk that is really full, at every point of a build: one line, a whole store, and the next build goes on."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.build.product import publish
from pipeline.errors import StageFailed
from tests.build.project import Project

PAGE = 4096


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of half a megabyte."""
    place = tmp_path / "small"
    place.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(place)], capture_output=True, text=True
    )
    if made.returncode:
        pytest.skip(f"no file system can be mounted here: {made.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def fill(place: Path, left: int) -> Path:
    """A file that leaves `left` pages."""
    filler = place / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while file.write(b"x" * PAGE):
                pass
        except OSError:
            pass
        file.truncate(max(0, file.tell() - left * PAGE))
    return filler


def test_a_disk_that_fills_up_at_every_point_of_a_build(project: Project, small: Path) -> None:
    failed, left = [], 0
    while True:
        engine, graph = project.engine(store=small / "store"), project.graph()
        filler = fill(small, left)
        try:
            project.run(engine, graph)
            publish(engine, graph.products[0])
        except StageFailed as error:
            failed.append(str(error))
            assert "the disk of" in str(error) and "is full" in str(error) and "\n" not in str(error)
            assert "free some space" in str(error)
        else:
            break
        finally:
            filler.unlink()
        for record in engine.store.records():
            assert all(engine.store.verified(blob) for blob in record.files.values())
        assert engine.store.dropped == []
        left += 1
    assert len(failed) >= 3
    names = {text.split(":")[1].strip() for text in failed}
    assert len(names) >= 2, failed  # several stages met the full disk
    assert (graph.products[0].folder / "manifest.json").is_file()

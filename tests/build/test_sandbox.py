"""The folder that a stage runs in."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipeline.build.sandbox import make
from pipeline.errors import StageFailed


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "blob"
    path.write_text("content")
    return path


def room(tmp_path: Path) -> Path:
    (tmp_path / "room").mkdir()
    return tmp_path / "room"


def test_only_the_inputs_are_there_under_their_names(tmp_path: Path, file: Path) -> None:
    sandbox = make(room(tmp_path), {"graph": {"a/layout.json": file}})
    found = sorted(path.relative_to(sandbox.root).as_posix() for path in sandbox.root.rglob("*"))
    assert found == ["inputs", "inputs/graph", "inputs/graph/a", "inputs/graph/a/layout.json", "out", "work"]
    assert (sandbox.inputs["graph"] / "a/layout.json").read_text() == "content"


def test_removing_it_leaves_the_links_targets(tmp_path: Path, file: Path) -> None:
    make(room(tmp_path), {"graph": {"x": file}}).remove()
    assert file.read_text() == "content" and not (tmp_path / "room").exists()


@pytest.mark.parametrize("harm", ["write", "write back", "remove", "replace"])
def test_a_changed_input_is_noticed(tmp_path: Path, file: Path, harm: str) -> None:
    sandbox = make(room(tmp_path), {"graph": {"x": file}})
    sandbox.refuse_changed_inputs()
    before = file.stat()
    if harm == "remove":
        file.unlink()
    elif harm == "replace":
        (tmp_path / "other").write_text("content")
        os.replace(tmp_path / "other", file)
    else:
        file.write_text("CONTENT")
        if harm == "write back":
            os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(StageFailed, match="changed while the stage read it"):
        sandbox.refuse_changed_inputs()

"""Where a run finds its sources, and whom it wakes while it reads them."""

from __future__ import annotations

import os
import time
from pathlib import Path

from pipeline.build.nodes import SourceNode
from pipeline.build.store import Store, hash_file
from tasks.session import resolver
from tests.build.project import Listener


def model_folder(place: Path) -> Path:
    place.mkdir()
    (place / "config.json").write_text("{}")
    (place / "model.safetensors").write_bytes(os.urandom(3 << 20))
    past = time.time_ns() - 5_000_000_000
    for path in place.iterdir():
        os.utime(path, ns=(past, past))
    return place


def test_a_source_that_must_be_read_is_told_of_before(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model")
    node = SourceNode("source", {"path": str(folder)}, "id", "toy")
    store = Store(tmp_path / "store")
    store.create()
    told: list[tuple[SourceNode, dict[str, Path], int]] = []
    resolve = resolver(store, lambda source, paths, size: told.append((source, dict(paths), size)))
    found = resolve(node, Listener())
    assert told == [(node, found.paths, (3 << 20) + 2)]
    assert found.files["model.safetensors"].sha256 == hash_file(folder / "model.safetensors")
    told.clear()
    assert resolve(node, Listener()).files == found.files
    assert told == []

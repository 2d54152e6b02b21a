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


def test_a_source_that_must_be_read_wakes_a_worker_once(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model")
    node = SourceNode("source", {"path": str(folder)}, "id", "toy")
    store = Store(tmp_path / "store")
    store.create()
    woken: list[SourceNode] = []
    resolve = resolver(store, woken.append)
    found = resolve(node, Listener())
    assert woken == [node]
    assert found.files["model.safetensors"].sha256 == hash_file(folder / "model.safetensors")
    woken.clear()
    assert resolve(node, Listener()).files == found.files
    assert woken == []

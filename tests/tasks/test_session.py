"""Where a run finds its sources, and whom it wakes while it reads them."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.build.ahead import HeadStart, Quiet, no_source
from pipeline.build.engine import Engine
from pipeline.build.execution import LARGE
from pipeline.build.nodes import SourceNode
from pipeline.build.store import Store, hash_file
from tasks.request import Request
from tasks.session import _meanwhile, resolver
from tests.build.project import Listener, Project, forget_modules


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


@pytest.mark.parametrize(
    ("request_", "size", "expected"),
    [
        (Request("run", "export", ()), LARGE + 1, ["checkpoint", "graph"]),
        (Request("run", "export", ()), LARGE, []),
        (Request("run", "export", (), always=True), LARGE + 1, []),
        (Request("run", "plan", ()), LARGE + 1, []),
    ],
)
def test_a_head_start_is_for_builds_of_large_sources(
    request_: Request, size: int, expected: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would be of no use where everything is built anew, and a plan builds nothing."""
    project = Project(tmp_path, monkeypatch)
    project.stages = tuple(replace(stage, ahead=stage.name == "checkpoint") for stage in project.stages)
    engine, graph = project.engine(), project.graph()
    head_start = HeadStart(Engine(engine.executor, no_source, Quiet(engine.console)), graph)
    reading = _meanwhile(request_, head_start)
    (source,) = graph.sources.values()
    reading(source, {path.name: path for path in project.source.iterdir()}, size)
    for thread in head_start._threads.values():
        thread.join(30)
    head_start.close()
    forget_modules()
    assert project.calls == expected

"""A head start: built before the source's digest is known, with the same records as without, or not at all."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.build.ahead import HeadStart, Quiet, needed_by_readers, no_source
from pipeline.build.engine import Engine
from pipeline.build.nodes import Graph
from pipeline.build.remote import Remote
from pipeline.errors import UserError
from tests.build.project import Project

AHEAD = ["checkpoint", "graph"]


@pytest.fixture
def project(project: Project) -> Project:
    project.stages = tuple(replace(stage, ahead=stage.name == "checkpoint") for stage in project.stages)
    return project


def places(project: Project) -> dict[str, Path]:
    return {path.name: path for path in project.source.iterdir()}


def run_ahead(engine: Engine, graph: Graph, paths: dict[str, Path]) -> HeadStart:
    """A head start that has come as far as it could before the source was read."""
    own = Engine(engine.executor, no_source, Quiet(engine.console), engine.remote)
    start = HeadStart(own, graph)
    for source in graph.sources.values():
        start.begin(source, paths)
    for thread in start._threads.values():
        thread.join(30)
        assert not thread.is_alive()
    return start


def test_what_needs_no_digest_is_built_once_and_is_as_ever(project: Project) -> None:
    plain = {path.name: path.read_bytes() for path in _records(project, project.root / "plain")}
    assert len(project.calls) == len(project.stages)
    engine, graph = project.engine(), project.graph()
    run_ahead(engine, graph, places(project))
    assert project.calls == AHEAD
    how = project.run(engine, graph)
    assert sorted(project.calls) == ["config", "link", "quality", "weights"]
    assert set(how.values()) == {"built"}  # in this very run
    found = {path.name: path.read_bytes() for path in (project.root / "store/ac").glob("*/*.json")}
    assert found.keys() == plain.keys()
    assert project.build() == dict.fromkeys(how, "hit")


def _records(project: Project, store: Path) -> list[Path]:
    project.run(project.engine(store=store), project.graph())
    return sorted((store / "ac").glob("*/*.json"))


def test_its_seconds_and_notes_are_those_of_the_work(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOY_SLOW", "checkpoint,graph")
    monkeypatch.setenv("TOY_SECONDS", "0.3")
    engine, graph = project.engine(), project.graph()
    run_ahead(engine, graph, places(project))
    project.run(engine, graph)
    outcomes = {node.name: engine.outcomes[node.id] for node in graph.nodes.values()}
    assert all(outcomes[name].seconds >= 0.3 for name in AHEAD)
    assert project.listener.notes.count("12 letters") == 1
    assert outcomes["checkpoint"].record.notes == ("12 letters",)


def test_a_file_that_changes_meanwhile_is_read_again(project: Project) -> None:
    engine, graph = project.engine(), project.graph()
    run_ahead(engine, graph, places(project))
    (project.source / "model.txt").write_text("other weight")  # as long as before
    assert project.run(engine, graph)["checkpoint"] == "built"
    assert project.calls.count("checkpoint") == 2
    node = next(node for node in graph.nodes.values() if node.name == "weights")
    blob = engine.outcomes[node.id].record.files["llm.mnn.weight"]
    assert b"other weight" in engine.store.blob_path(blob.sha256).read_bytes()


def test_a_file_with_its_old_time_set_back_is_read_again(project: Project) -> None:
    engine, graph = project.engine(), project.graph()
    path = project.source / "model.txt"
    run_ahead(engine, graph, places(project))
    before = path.stat()
    path.write_text("SOME weights")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    project.run(engine, graph)
    assert project.calls.count("checkpoint") == 2


def test_what_is_in_the_store_is_not_built_again(project: Project) -> None:
    project.build()
    assert len(project.calls) == len(project.stages)
    engine, graph = project.engine(), project.graph()
    run_ahead(engine, graph, places(project))
    assert project.calls == ["checkpoint"]  # a stage without a key cannot be found
    assert set(project.run(engine, graph).values()) == {"hit"}


def test_a_damaged_record_is_told_of(project: Project) -> None:
    project.build()
    (record,) = (project.root / "store/ac/graph").iterdir()
    record.write_text("{}")
    engine, graph = project.engine(), project.graph()
    run_ahead(engine, graph, places(project))
    assert [line for line in project.listener.lines if "was damaged: dropped" in line]
    assert project.run(engine, graph)["graph"] == "built"


def test_a_failure_is_told_in_the_stages_turn(project: Project) -> None:
    project.edit("checkpoint", 'called("checkpoint")\n', 'called("checkpoint")\n    raise UserError("no", "mend it")\n')
    project.edit("checkpoint", "import json\n", "import json\n\nfrom pipeline.errors import UserError\n")
    engine, graph = project.engine(), project.graph()
    run_ahead(engine, graph, places(project))
    assert project.listener.lines == []
    with pytest.raises(UserError, match="toy: checkpoint: no"):
        project.run(engine, graph)


def test_it_builds_what_the_build_waits_for_and_nothing_that_reads_the_source(project: Project) -> None:
    graph = project.graph()
    names = {node.id: node.name for node in graph.nodes.values()}
    assert {names[one] for one in needed_by_readers(graph) if one in names} == set(AHEAD)


def test_a_remote_store_gets_it_and_gives_it(project: Project, tmp_path: Path) -> None:
    for number, expected in ((1, AHEAD), (2, ["checkpoint"])):
        remote = Remote(str(tmp_path / "remote"), "readwrite", lambda text: None)
        engine, graph = project.engine(store=tmp_path / f"store{number}", remote=remote), project.graph()
        run_ahead(engine, graph, places(project))
        assert project.calls == expected
        project.run(engine, graph)
        remote.finish()
        assert project.calls.count("weights") == (number == 1)


def test_closing_ends_a_stage_that_nobody_waits_for(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOY_SLOW", "graph")
    monkeypatch.setenv("TOY_SECONDS", "60")
    engine, graph = project.engine(), project.graph()
    start = HeadStart(Engine(engine.executor, no_source, Quiet(engine.console), None), graph)
    for source in graph.sources.values():
        start.begin(source, places(project))
    (thread,) = start._threads.values()
    while "graph" not in project.calls:
        assert thread.is_alive()
        thread.join(0.05)
    start.close()
    assert not thread.is_alive()
    assert not list((engine.store.root / "ac").glob("graph/*"))

"""What a worker imports before its inputs are there: while the source is read, or while the stage before it runs."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pipeline.build import execution
from pipeline.build.nodes import consumers
from tests.build.project import Project

WARM, WARM_LARGE = "colorsys", "fileinput"  # of the standard library, and imported by nothing else here
TELLING = f"import sys\n    log.note(repr([name for name in ('{WARM}', '{WARM_LARGE}') if name in sys.modules]))\n"


def build(project: Project, early: bool) -> list[str]:
    """The notes of a build whose graph stage says which of the two modules are there."""
    warm = {"warm": (WARM,), "warm_large": (WARM_LARGE,)}
    project.stages = tuple(replace(stage, **warm) if stage.name == "graph" else stage for stage in project.stages)
    project.edit("graph", 'called("graph")\n', f'called("graph")\n    {TELLING}')
    engine, graph = project.engine(), project.graph()
    engine.executor.consumers = consumers(graph)
    if early:
        for source in graph.sources.values():
            engine.executor.warm_up_for(source)
    project.run(engine, graph)
    engine.executor.close()
    return [note for note in project.listener.notes if note.startswith("[")]


@pytest.mark.parametrize("early", [False, True])
def test_a_small_model_s_worker(project: Project, early: bool) -> None:
    assert build(project, early) == [repr([WARM])]


def test_a_large_model_s_worker(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execution, "LARGE", 1)
    assert build(project, early=False) == [repr([WARM, WARM_LARGE])]

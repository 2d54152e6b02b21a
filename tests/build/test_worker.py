"""A worker looks for garbage seldom, never while it imports, and still in what its stage makes."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest

from pipeline.build.nodes import consumers
from pipeline.build.worker import OBJECTS
from tests.build.project import Project

TELL = 'import gc; log.note(f"{gc.isenabled()} {gc.get_threshold()[0]} {gc.get_freeze_count() > 1000}")'
IMPORTED = "import gc\n\nWHILE_IMPORTED = gc.isenabled()\n"
TELL_IMPORT = 'from toys.early import WHILE_IMPORTED; log.note(f"{WHILE_IMPORTED}")'


@pytest.mark.parametrize("forked", [False, True])
def test_its_settings(project: Project, forked: bool) -> None:
    """Of a worker of its own, and of one that is forked from a process that has imported."""
    (project.root / "toys/early.py").write_text(IMPORTED)
    names = ("graph", "weights") if forked else ("graph",)
    project.stages = tuple(
        replace(one, in_process=False, warm=("toys.early",), code=("toys.early",)) if one.name in names else one
        for one in project.stages
    )
    project.edit("graph", 'called("graph")', f'called("graph"); {TELL}; {TELL_IMPORT}')
    engine, graph = project.engine(), project.graph()
    engine.executor.consumers = consumers(graph)
    project.run(engine, graph)
    engine.executor.close()
    assert {f"True {OBJECTS} True", "False"} <= set(project.listener.notes)


def test_garbage_in_cycles_is_found() -> None:
    """What was there before the job is kept, what the job makes and drops is not."""
    code = f"""
import gc, weakref
from pipeline.build.worker import collect_the_new, with_few_collections

class Ring:
    def __init__(self):
        self.me = self

with_few_collections()
old = weakref.ref(Ring())
collect_the_new()
new = weakref.ref(Ring())
kept = [[] for _ in range({OBJECTS} + 10)]
print(old() is not None, new() is None)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == ["True", "True"]

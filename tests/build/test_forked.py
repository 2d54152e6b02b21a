"""Workers that share what they import are forks of one process; all else about them is as of any other worker."""

from __future__ import annotations

import os
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.build.engine import Engine
from pipeline.build.nodes import Node, consumers
from pipeline.errors import StageFailed
from tests.build.project import Project

WARM = "colorsys"  # of the standard library, and imported by nothing else here
CALLED = {name: f'called("{name}")' for name in ("graph", "weights")}
TELL = 'import os, sys; log.note(f"{os.getppid()} {os.getpgid(0) == os.getpid()} {\'colorsys\' in sys.modules}")'


def sharing(project: Project, module: str = WARM) -> Engine:
    """An engine in whose build two stages have workers that warm up with the same module."""
    shared = {"in_process": False, "warm": (module,)}
    project.stages = tuple(replace(one, **shared) if one.name in CALLED else one for one in project.stages)
    engine = project.engine()
    engine.executor.consumers = consumers(project.graph())
    return engine


def build(project: Project, engine: Engine) -> dict[str, str]:
    try:
        return project.run(engine, project.graph())
    finally:
        engine.executor.close()


def told(project: Project) -> list[list[str]]:
    """[parent's pid, leads a group of its own, has imported the module] of each stage that tells."""
    return [note.split() for note in project.listener.notes if note.endswith((" True", " False"))]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_two_workers_are_forks_of_one_process_which_ends_with_the_build(project: Project) -> None:
    for name, called in CALLED.items():
        project.edit(name, called, f"{called}; {TELL}")
    build(project, sharing(project))
    assert [words[1:] for words in told(project)] == [["True", "True"]] * 2
    (server,) = {int(words[0]) for words in told(project)}
    assert server != os.getpid()
    assert not alive(server)


def test_a_module_for_one_worker_only_is_imported_by_itself(project: Project) -> None:
    project.edit("graph", CALLED["graph"], f"{CALLED['graph']}; {TELL}")
    engine = sharing(project)
    project.stages = tuple(replace(one, in_process=one.name != "graph", warm=()) for one in project.stages)
    engine.executor.consumers = consumers(project.graph())
    build(project, engine)
    assert [words[0] for words in told(project)] == [str(os.getpid())]


def test_the_same_bytes_as_from_workers_of_their_own(project: Project) -> None:
    forked = build(project, sharing(project))
    outputs = {path.name: path.read_bytes() for path in (project.root / "store/blobs").rglob("*") if path.is_file()}
    assert forked["graph"] == forked["weights"] == "built"
    plain = project.engine(store=project.root / "other")
    project.run(plain, project.graph())
    other = {path.name: path.read_bytes() for path in (project.root / "other/blobs").rglob("*") if path.is_file()}
    assert other and outputs == other


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import os; os.kill(os.getpid(), 9)", r"the worker was killed"),
        ("import ctypes; ctypes.string_at(0)", r"native code crashed \(SIGSEGV\)"),
        ("import os; os._exit(5)", r"the worker ended with exit code 5 and no result"),
        ("raise ValueError('odd')", r"ValueError: odd"),
    ],
)
def test_how_a_worker_ends_is_told(project: Project, code: str, said: str) -> None:
    project.edit("weights", CALLED["weights"], code)
    with pytest.raises(StageFailed, match=f"weights: {said}"):
        build(project, sharing(project))


def test_what_a_worker_prints_goes_to_its_own_log(project: Project, capfd: pytest.CaptureFixture[str]) -> None:
    for name, called in CALLED.items():
        project.edit(name, called, f'{called}; import os; os.write(1, b"noise of {name}"); print("and more")')
    build(project, sharing(project))
    logs = {name: next((project.root / "store/logs").glob(f"{name}-*.log")).read_text() for name in CALLED}
    assert all(text == f"noise of {name}and more\n" for name, text in logs.items())
    assert capfd.readouterr().out == ""


def test_an_import_that_fails_is_told_in_the_log(project: Project) -> None:
    with pytest.raises(StageFailed, match=r"the worker ended with exit code 1 and no result; log: "):
        build(project, sharing(project, "no_such_module"))
    logs = "".join(path.read_text() for path in (project.root / "store/logs").glob("*.log"))
    assert "No module named 'no_such_module'" in logs


def test_a_server_that_was_killed_is_replaced(project: Project) -> None:
    for name, called in CALLED.items():
        project.edit(name, called, f"{called}; {TELL}")
    engine = sharing(project)
    run, killed = engine.executor.run, []

    def killing(node: Node, *rest: Any) -> Any:
        record = run(node, *rest)
        if node.name == "graph":
            killed.append(int(told(project)[0][0]))
            os.kill(killed[0], signal.SIGKILL)
            while alive(killed[0]):
                time.sleep(0.01)
        return record

    engine.executor.run = killing  # type: ignore[method-assign]
    assert build(project, engine)["weights"] == "built"
    (_, second) = told(project)
    assert int(second[0]) != killed[0]


def test_an_interruption_leaves_no_worker(project: Project) -> None:
    """kill_all while a fork runs: it and the process it came from are gone."""
    mark = project.root / "mark"
    wait = f"import os, time; open({str(mark)!r}, 'w').write(f'{{os.getpid()}} {{os.getppid()}}'); time.sleep(60)"
    project.edit("weights", CALLED["weights"], wait)
    engine = sharing(project)
    failed: list[BaseException] = []

    def run() -> None:
        try:
            build(project, engine)
        except StageFailed as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    while not mark.exists() or len(mark.read_text().split()) < 2:
        time.sleep(0.01)
    engine.executor.spawner.kill_all()
    thread.join(30)
    assert not thread.is_alive()
    assert "the worker was killed" in str(failed[0])
    assert not any(alive(int(pid)) for pid in mark.read_text().split())

"""Locks hold between threads and processes, and die with their holder."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

from pipeline.build.code import ROOT
from pipeline.build.locks import exclusive, hold_shared, shared, try_exclusive


def test_two_threads_are_never_inside_together(tmp_path: Path) -> None:
    inside: list[int] = []
    most = 0

    def work() -> None:
        nonlocal most
        for _ in range(50):
            with exclusive(tmp_path / "locks" / "one"):
                inside.append(1)
                most = max(most, len(inside))
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1


def test_shared_holders_keep_a_sole_one_out(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with shared(path):
        handle = hold_shared(path)
        assert try_exclusive(path) is None
    assert try_exclusive(path) is None
    os.close(handle)
    sole = try_exclusive(path)
    assert sole is not None
    os.close(sole)


def test_a_killed_holder_holds_nothing(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom pipeline.build.locks import exclusive\n"
        "with exclusive(Path(sys.argv[1])):\n    print('in', flush=True)\n    time.sleep(60)\n"
    )
    child = subprocess.Popen([sys.executable, "-c", code, str(path)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None and child.stdout.readline() == "in\n"
    assert try_exclusive(path) is None
    child.kill()
    child.wait()
    handle = try_exclusive(path)
    assert handle is not None
    os.close(handle)

"""Kill -9 at random moments of an export of toy stages; benchmarks/crash.py does the same to a real one."""

from __future__ import annotations

from benchmarks.crash import Export, torment
from tests.tasks.project import Folder


def test_every_restart_succeeds_and_nothing_is_done_twice(folder: Folder) -> None:
    environment = folder.environment(TOY_SLOW="checkpoint graph weights link quality", TOY_SECONDS="0.1")
    command = folder.command("export", *folder.recipe)
    export = Export(command, folder.artifacts / ".cache", folder.artifacts / "toy", folder.root, environment)
    tally = torment(export, kills=8, seed=3)
    assert tally.kills == 8 and tally.completed >= 1
    assert tally.good, tally

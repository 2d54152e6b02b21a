"""The lean path: what a cheap command may import, and how long it may take."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from tests.tasks.project import ROOT, Folder

HEAVY = {
    "torch",
    "transformers",
    "numpy",
    "onnx",
    "hydra",
    "omegaconf",
    "rich",
    "fsspec",
    "numba",
    "gguf",
    "safetensors",
}
SCRIPT = """
import sys, atexit
seen = set(sys.argv[1].split(","))
from doit.doit_cmd import DoitMain
code = 0
try:
    sys.argv = ["doit", *sys.argv[2:]]
    code = DoitMain().run(sys.argv[1:])
except SystemExit as exit:
    code = exit.code
sys.stderr.write(",".join(sorted(seen & set(sys.modules))))
sys.exit(code)
"""


def imported(folder: Folder, *arguments: str) -> set[str]:
    command = [sys.executable, "-c", SCRIPT, ",".join(HEAVY), *arguments]
    done = subprocess.run(
        command, cwd=folder.root, env=folder.environment(), capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr
    return set(done.stderr.split(",")) - {""}


@pytest.mark.parametrize("arguments", [["list"], [], ["help", "export"], ["gc", "--dry-run"]])
def test_cheap_verbs_import_nothing_heavy(folder: Folder, arguments: list[str]) -> None:
    assert imported(folder, *arguments) == set()


def test_a_no_op_export_and_its_plan_import_nothing_heavy(folder: Folder) -> None:
    folder.doit("export")
    assert imported(folder, "export", *folder.recipe) == set()
    assert imported(folder, "plan", *folder.recipe) == set()


def test_a_rule_and_a_budget_of_a_packages_gguf_are_looked_at_without_numpy(folder: Folder) -> None:
    """From the second time on: then the file's header is remembered."""
    asked = ["plan", "model=smollm2-135m", "quant=auto", "quant.rules=[{pattern: v_proj, bits: 8}]"]
    assert folder.doit(*asked, recipe=False)[0] == 0
    assert imported(folder, *asked) == set()


def test_the_real_stages_declarations_import_nothing_heavy() -> None:
    call = f"stages(); print(sorted({HEAVY!r} & set(sys.modules)))"
    code = f"import sys; from pipeline.stages.registry import stages; {call}"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_cheap_verbs_take_little_processor_time(folder: Folder) -> None:
    import resource

    folder.doit("export")
    for arguments, limit in ((["list"], 0.5), (["export", *folder.recipe], 1.2)):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        started = time.monotonic()
        assert folder.doit(*arguments, recipe=False)[0] == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        used = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
        assert used < limit, (arguments, used, time.monotonic() - started)

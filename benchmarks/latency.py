"""How long the command line takes when there is nothing to build.

    python benchmarks/latency.py [--json] [--runs 7]

Builds one product and a sweep of 16 of it (verify=off; they differ in config.json only, and share all stages but that)
in a folder of its own, then times the commands in turns, so that a busy moment hits them all alike. Shown are medians,
the spread of the wall seconds and the processor seconds, which say more on a machine that does other things besides;
the yardstick is a start of Python that imports doit and does nothing.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DODO = "from tasks import *\nfrom tasks import doit_config\n\nDOIT_CONFIG = doit_config()\n"
RECIPE = ("model=smollm2-135m", "quant=int4", "verify=off")
SWEEP = (*RECIPE, "target.runtime.thread_num=range(1,17)")


@dataclass(frozen=True)
class Case:
    """A command and the wall seconds that it may take. code: the exit code that it must have. program: in the venv."""

    name: str
    arguments: tuple[str, ...]
    target: float
    code: int = 0
    program: str = "doit"


YARDSTICK = Case("yardstick: import doit", ("-c", "import doit.doit_cmd"), float("inf"), program="python")
CASES = (
    Case("doit list", ("list",), 0.25),
    Case("no-op export", ("export", *RECIPE), 0.5),
    Case("16-product no-op sweep", ("export", *SWEEP), 0.9),
    Case("plan of one product", ("plan", *RECIPE), 0.6),
    Case("unknown model", ("export", "model=smollm2-135n"), 0.5, code=3),
)


@dataclass(frozen=True)
class Timing:
    """Seconds: medians, and the spread of the wall seconds."""

    name: str
    wall: float
    best: float
    worst: float
    processor: float
    target: float


def measure(cases: Sequence[Case], folder: Path, runs: int) -> list[Timing]:
    """Every case `runs` times, in turns. Raises RuntimeError if a command does not end as it must."""
    samples: dict[str, list[tuple[float, float]]] = {case.name: [] for case in cases}
    for _ in range(runs):
        for case in cases:
            samples[case.name].append(_timed(case, folder))
    return [_timing(case, samples[case.name]) for case in cases]


def _timed(case: Case, folder: Path) -> tuple[float, float]:
    before, started = _processor(), time.perf_counter()
    code, text = _run(case.program, case.arguments, folder)
    if code != case.code:
        raise RuntimeError(f"{case.name}: exit code {code}: {text}")
    return time.perf_counter() - started, _processor() - before


def _timing(case: Case, samples: Sequence[tuple[float, float]]) -> Timing:
    walls, processors = zip(*samples, strict=True)
    figures = (statistics.median(walls), min(walls), max(walls), statistics.median(processors))
    return Timing(case.name, *(round(figure, 3) for figure in figures), case.target)


def _doit(arguments: Sequence[str], folder: Path) -> tuple[int, str]:
    return _run("doit", arguments, folder)


def _run(program: str, arguments: Sequence[str], folder: Path) -> tuple[int, str]:
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment = {**kept, "PYTHONPATH": str(ROOT)}
    command = [str(Path(sys.executable).with_name(program)), *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def _processor() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def main(arguments: Sequence[str]) -> int:
    """0 if every target is met."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--runs", type=int, default=7)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="latency-") as name:
        folder = Path(name)
        (folder / "dodo.py").write_text(DODO)
        for recipe in (RECIPE, SWEEP):
            code, text = _doit(("export", *recipe), folder)
            if code:
                raise RuntimeError(text)
        timings = measure((YARDSTICK, *CASES), folder, options.runs)
    if options.json:
        print(json.dumps([asdict(timing) for timing in timings], indent=2))
    else:
        for one in timings:
            verdict = "" if one.wall <= one.target else "  TOO SLOW"
            seconds = f"{one.wall:6.2f} s  ({one.best:.2f}–{one.worst:.2f}, processor {one.processor:.2f})"
            goal = f"  target {one.target:.2f} s" if math.isfinite(one.target) else ""
            print(f"{one.name:<24} {seconds}{goal}{verdict}")
    return 0 if all(one.wall <= one.target for one in timings) else 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))

"""What an export costs: wall and CPU seconds and peak memory, per stage and as a whole, as a table and as JSON.

    python benchmarks/export.py model=smollm2-135m quant=int4 verify=off
    python benchmarks/export.py --json figures.json model=smollm2-135m quant=int4 -- quant=int8

Each scenario runs the real command line in an empty folder with an empty store: `cold`, then `noop` (the same command
again) and, for every group of overrides after a `--`, `warm` (what another recipe costs afterwards). Memory is the
peak, over the whole process tree, of the sum of proportional set sizes: a page that three processes share counts once.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[1]
INTERVAL = 0.05
WORKPLACE = re.compile(r"/tmp/([a-z_]+)-[^/]+/work")
REST = "command line"


@dataclass
class Cost:
    """Seconds and bytes. wall of a stage: from its worker's first sample to its last, so short stages show as 0."""

    wall: float = 0.0
    cpu: float = 0.0
    peak: int = 0


@dataclass
class Scenario:
    """One run of the command line. exit_code other than 0: the figures are those of a failure. sampled: whether it was
    looked at meanwhile, which alone tells stages and memory, and takes time from it."""

    name: str
    overrides: list[str]
    exit_code: int = 0
    total: Cost = field(default_factory=Cost)
    stages: dict[str, Cost] = field(default_factory=dict)
    output: str = ""
    sampled: bool = True


@dataclass
class Sampler:
    """Looks at a process tree again and again. CPU times of processes that ended keep their last value."""

    root: psutil.Process
    peak: int = 0
    cpu: dict[int, float] = field(default_factory=dict)
    owner: dict[int, str] = field(default_factory=dict)
    peaks: dict[str, int] = field(default_factory=dict)
    seen: dict[str, list[float]] = field(default_factory=dict)

    def sample(self, now: float) -> None:
        memory: dict[str, int] = {}
        for process in self._tree():
            try:
                stage = self._stage(process)
                memory[stage] = memory.get(stage, 0) + process.memory_full_info().pss
                times = process.cpu_times()
            except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
                continue
            self.cpu[process.pid] = times.user + times.system
        self.peak = max(self.peak, sum(memory.values()))
        for stage, size in memory.items():
            self.peaks[stage] = max(self.peaks.get(stage, 0), size)
            first, _ = self.seen.setdefault(stage, [now, now])
            self.seen[stage] = [first, now]

    def costs(self) -> dict[str, Cost]:
        """Per stage, `REST` for what no worker did (in-process stages among it)."""
        cpu: dict[str, float] = {}
        for pid, seconds in self.cpu.items():
            cpu[self.owner[pid]] = cpu.get(self.owner[pid], 0.0) + seconds
        return {
            stage: Cost(last - first, cpu.get(stage, 0.0), self.peaks[stage])
            for stage, (first, last) in self.seen.items()
        }

    def _tree(self) -> list[psutil.Process]:
        try:
            return [self.root, *self.root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def _stage(self, process: psutil.Process) -> str:
        """The stage whose sandbox the process, or the worker that started it, works in."""
        found = WORKPLACE.search(process.cwd())
        parent = self.owner.get(process.ppid(), REST)
        known = self.owner.get(process.pid, REST)
        self.owner[process.pid] = found.group(1) if found else parent if parent != REST else known
        return self.owner[process.pid]


def run(name: str, overrides: Sequence[str], folder: Path, sampled: bool = True) -> Scenario:
    """`doit export` in `folder`. CPU seconds of the whole are the kernel's own, children included."""
    shutil.copyfile(ROOT / "dodo.py", folder / "dodo.py")  # products and the store lie beside dodo.py
    command = [sys.executable, "-m", "doit", "export", *overrides]
    before = os.times()
    started = time.monotonic()
    with (folder / "output.txt").open("wb") as output:
        child = subprocess.Popen(command, cwd=folder, stdout=output, stderr=subprocess.STDOUT, env=environment())
        sampler = Sampler(psutil.Process(child.pid))
        while sampled and child.poll() is None:
            sampler.sample(time.monotonic())
            time.sleep(INTERVAL)
        child.wait()
    wall = time.monotonic() - started
    after = os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    text = (folder / "output.txt").read_text("utf-8", "replace")
    return Scenario(name, list(overrides), child.returncode, Cost(wall, cpu, sampler.peak), sampler.costs(), text,
                    sampled)  # fmt: skip


def scenarios(overrides: Sequence[str], others: Sequence[Sequence[str]], folder: Path) -> list[Scenario]:
    """cold, noop, then each of `others` on top of `overrides`; it ends at the first failure."""
    done = [run("cold", overrides, folder)]
    plan = [("noop", list(overrides)), *(("warm " + " ".join(more), merged(overrides, more)) for more in others)]
    for name, chosen in plan:
        if done[-1].exit_code:
            break
        done.append(run(name, chosen, folder))
    return done


def merged(overrides: Sequence[str], more: Sequence[str]) -> list[str]:
    """`more` wins over `overrides` key by key."""
    chosen = dict(text.partition("=")[::2] for text in (*overrides, *more))
    return [f"{key}={value}" for key, value in chosen.items()]


def table(done: Sequence[Scenario]) -> str:
    """Rows of scenario, stage, wall, CPU, peak."""
    lines = [f"{'scenario':24} {'stage':14} {'wall s':>8} {'CPU s':>8} {'peak MB':>8}"]
    for one in done:
        for stage, cost in sorted(one.stages.items(), key=lambda item: item[0] == REST):
            lines.append(f"{one.name:24} {stage:14} {cost.wall:8.1f} {cost.cpu:8.1f} {cost.peak / 1e6:8.0f}")
        verdict = "" if not one.exit_code else f"   FAILED, exit code {one.exit_code}"
        whole = one.total
        lines.append(
            f"{one.name:24} {'= whole':14} {whole.wall:8.1f} {whole.cpu:8.1f} {whole.peak / 1e6:8.0f}{verdict}"
        )
    return "\n".join(lines)


def environment() -> dict[str, str]:
    """Plain lines, no colour, the checkout's own modules, and bytecode, as in anybody's shell: without it each worker
    compiles them anew."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**kept, "CI": "true", "PYTHONPATH": str(ROOT)}


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    return {"cpus": os.cpu_count(), "load": os.getloadavg()[0], "python": platform.python_version()}


def main(arguments: Sequence[str]) -> int:
    """The exit code of the last scenario."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--keep", action="store_true", help="keep the folder with the product and the store")
    options, rest = parser.parse_known_args(list(arguments))
    groups: list[list[str]] = [[]]
    for text in rest:
        if text == "--":
            groups.append([])
        else:
            groups[-1].append(text)
    folder = Path(tempfile.mkdtemp(prefix="benchmark-"))
    try:
        before = machine()
        done = scenarios(groups[0], groups[1:], folder)
    finally:
        if not options.keep:
            shutil.rmtree(folder, ignore_errors=True)
    print(table(done))
    print(f"on {before['cpus']} CPUs, load {before['load']:.1f} at the start, Python {before['python']}")
    if done[-1].exit_code:
        print(done[-1].output, file=sys.stderr)
    if options.json:
        options.json.write_text(json.dumps({"machine": before, "scenarios": [asdict(one) for one in done]}, indent=1))
    return done[-1].exit_code


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))

"""Kill -9 an export at random moments, and check after each that nothing was lost and nothing is wrong.

    python benchmarks/crash.py --kills 50 -- model=smollm2-135m quant=int4 verify=off

Works in a store of its own (cache.dir) and a product of its own name. After every kill: each record is whole, each blob
that a record names has its digest, no process is left. After every completed export: the product's bytes are those of
an undisturbed export, and no stage that had its record before a kill was built again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from pipeline.build.store import Store

ROOT = Path(__file__).resolve().parents[1]


@dataclass
class Tally:
    """What happened. waits: seconds from a start to its kill."""

    kills: int = 0
    completed: int = 0
    redone: list[str] = field(default_factory=list)
    wrong_products: int = 0
    damaged: list[str] = field(default_factory=list)
    orphans: int = 0
    failures: list[str] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)

    @property
    def good(self) -> bool:
        """Whether every claim held."""
        return not (self.redone or self.wrong_products or self.damaged or self.orphans or self.failures)


@dataclass
class Export:
    """A command that exports into `product` through `store`, run in `cwd`."""

    command: Sequence[str]
    store: Path
    product: Path
    cwd: Path = ROOT
    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))

    def start(self) -> subprocess.Popen[bytes]:
        """The export, its output thrown away."""
        quiet = subprocess.DEVNULL
        return subprocess.Popen(self.command, cwd=self.cwd, env=self.environment, stdout=quiet, stderr=subprocess.PIPE)

    def reset(self) -> None:
        """No store, no product."""
        shutil.rmtree(self.store, ignore_errors=True)
        shutil.rmtree(self.product, ignore_errors=True)


def torment(export: Export, kills: int, seed: int) -> Tally:
    """Kill `kills` times; see the module's text for what is checked."""
    dice, tally = random.Random(seed), Tally()
    export.reset()
    started = time.monotonic()
    _finish(export.start(), tally)
    seconds, wanted = time.monotonic() - started, content(export.product)
    while tally.kills < kills and not tally.failures:
        export.reset()
        before: dict[str, int] = {}
        while tally.kills < kills:
            process = export.start()
            wait = dice.uniform(0, seconds)
            if _ended(process, wait):
                _finish(process, tally)
                break
            process.send_signal(signal.SIGKILL)
            process.communicate()
            tally.kills += 1
            tally.waits.append(round(wait, 3))
            _inspect(export, tally, before)
            sys.stderr.write(f"kill {tally.kills} after {wait:.1f} s; {len(before)} records so far\n")
        else:
            _finish(export.start(), tally)
        _inspect(export, tally, before)
        tally.wrong_products += content(export.product) != wanted
        tally.completed += 1
    return tally


def content(folder: Path) -> dict[str, str]:
    """Name → sha256 of every file."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def _ended(process: subprocess.Popen[bytes], seconds: float) -> bool:
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return False
    return True


def _finish(process: subprocess.Popen[bytes], tally: Tally) -> None:
    _, err = process.communicate()
    if process.returncode:
        tally.failures.append(err.decode(errors="replace")[-500:])


def _inspect(export: Export, tally: Tally, before: dict[str, int]) -> None:
    """Note damage, orphans, and records that were written twice (a new inode); `before` is brought up to date."""
    tally.orphans += not _alone(export.store)
    store = Store(export.store)
    for record in store.records():
        inode = store.record_path(record.stage, record.key).stat().st_ino
        if before.setdefault(record.key, inode) != inode:
            tally.redone.append(record.stage)
        tally.damaged += [
            f"{record.stage}/{name}"
            for name, blob in record.files.items()
            if record.stage != "source" and not store.verified(blob)
        ]
    tally.damaged += store.dropped


def _alone(store: Path, seconds: float = 5.0) -> bool:
    """Whether no process works below `store`, at the latest after `seconds`: a kill takes a moment to arrive."""
    end = time.monotonic() + seconds
    while _workers(store):
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def _workers(store: Path) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            inside = os.readlink(entry / "cwd").startswith(str(store))
            dead = (entry / "stat").read_text().rpartition(")")[2].split()[0] == "Z"
        except OSError:
            continue  # it has ended, or is not ours
        if inside and not dead:
            found.append(int(entry.name))
    return found


def main(arguments: Sequence[str]) -> int:
    """0 if every claim held."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("overrides", nargs="*", default=["verify=off"])
    options = parser.parse_args(arguments)
    store = Path(tempfile.mkdtemp(prefix=".crash-", dir=ROOT / "artifacts"))
    name = store.name.lstrip(".")
    command = [sys.executable, "-m", "doit", "export", *options.overrides, f"cache.dir={store}", f"name={name}"]
    export = Export(command, store, ROOT / "artifacts" / name)
    started = time.monotonic()
    tally = torment(export, options.kills, options.seed)
    export.reset()
    print(json.dumps({**asdict(tally), "good": tally.good, "seconds": round(time.monotonic() - started, 1)}, indent=2))
    return 0 if tally.good else 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))

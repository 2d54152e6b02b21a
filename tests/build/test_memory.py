"""Peak memory is that of the program itself, not of the parent that it was started from."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CHILD = "from pipeline.build.memory import peak; ballast = b'x' * {size}; print(peak())"


def child(size: int) -> int:
    command = [sys.executable, "-c", CHILD.format(size=size)]
    return int(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout)


def test_a_child_s_peak_is_not_its_parent_s() -> None:
    ballast = b"x" * (400 << 20)
    assert child(0) < 100 << 20 < len(ballast)


def test_what_the_child_takes_counts() -> None:
    assert child(200 << 20) > child(0) + (190 << 20)

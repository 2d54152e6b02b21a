"""A folder in which the real command line builds real products, with a store of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
MODEL = "model=smollm2-135m"


@dataclass(frozen=True)
class Result:
    """One run of the command line."""

    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one line that a person reads. Fails the test if there is another, or a traceback."""
        lines = [line for line in self.err.splitlines() if line.strip()]
        assert len(lines) == 1, self.err
        assert lines[0].startswith("ERROR: "), self.err
        return lines[0]

    def built(self) -> set[str]:
        """Stages that were run."""
        rows = [line.split() for line in self.out.splitlines()]
        return {row[0] for row in rows if len(row) > 2 and row[1] == "built"}


class Workshop:
    """`root` holds dodo.py, artifacts/ and the store in artifacts/.cache."""

    def __init__(self, root: Path) -> None:
        self.root = root
        shutil.copyfile(ROOT / "dodo.py", root / "dodo.py")

    def doit(self, *arguments: str, timeout: float = 600, **variables: str) -> Result:
        """Run `doit …` as a script would: no terminal, CI=true."""
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "CI": "true", **variables}
        done = subprocess.run(
            [sys.executable, "-m", "doit", *arguments],
            cwd=self.root,
            env=environment,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        return Result(done.returncode, done.stdout, done.stderr)

    def export(self, *overrides: str, **options: Any) -> Result:
        return self.doit("export", *overrides, **options)

    def product(self, name: str) -> Path:
        return self.root / "artifacts" / name

    def manifest(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.product(name) / "manifest.json").read_text("utf-8"))
        return found

    def products(self) -> set[str]:
        return {path.name for path in (self.root / "artifacts").iterdir() if not path.name.startswith(".")}

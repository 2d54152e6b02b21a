"""The folder that a stage runs in: links to its declared inputs, an empty `out`, an empty working directory."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.build.store import disk_full, identity
from pipeline.errors import StageFailed


@dataclass(frozen=True)
class Sandbox:
    """root holds `inputs/<name>/<file>` (links), `out/` and `work/`."""

    root: Path
    inputs: Mapping[str, Path]
    identities: Mapping[Path, tuple[int, ...]]

    @property
    def out(self) -> Path:
        """Where the stage writes."""
        return self.root / "out"

    @property
    def work(self) -> Path:
        """The stage's working directory."""
        return self.root / "work"

    def refuse_changed_inputs(self) -> None:
        """Raises StageFailed if an input file is not what it was: the stage, or somebody else, wrote to it."""
        for path, before in self.identities.items():
            try:
                same = identity(path) == before
            except FileNotFoundError:
                same = False
            if not same:
                raise StageFailed(f"{path} changed while the stage read it", "run again when nothing writes to it")

    def remove(self) -> None:
        """Delete everything; the links' targets stay."""
        shutil.rmtree(self.root, ignore_errors=True)


def make(root: Path, inputs: Mapping[str, Mapping[str, Path]]) -> Sandbox:
    """Lay out `inputs` (name → file name → real path) below `root`."""
    folders: dict[str, Path] = {}
    identities: dict[Path, tuple[int, ...]] = {}
    with disk_full(root):
        for name in ("out", "work"):
            (root / name).mkdir()
        for name, files in inputs.items():
            folders[name] = root / "inputs" / name
            folders[name].mkdir(parents=True)
            for file, path in files.items():
                link = folders[name] / file
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(path)
                identities[path] = identity(path)
    return Sandbox(root, folders, identities)

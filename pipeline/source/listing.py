"""What a source is once it has been found: named files with sizes and sha256, and the revision they came from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class SourceFile:
    """One file as it lies on the disk. `sha256` is lower-case hex over its bytes, `size` in bytes."""

    path: Path
    sha256: str
    size: int


@dataclass(frozen=True)
class SourceListing:
    """Files of a model by the name that stages see (POSIX, relative to inputs["source"]).

    revision: a hub's commit, a distribution's name and version, or "" for a folder or a file.
    kind: "directory", "gguf", "huggingface", "modelscope" or "package".
    """

    files: Mapping[str, SourceFile]
    revision: str
    kind: str

    @property
    def digest(self) -> str:
        """sha256 over names and content only: the same files in another folder have the same digest."""
        entries = [[name, file.sha256, file.size] for name, file in sorted(self.files.items())]
        return hashlib.sha256(json.dumps(["source", entries]).encode()).hexdigest()

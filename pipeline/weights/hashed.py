"""A large output file that is hashed while it is written, so that nobody has to read it for its digest."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


class HashedFile:
    """A new file that is written from its first byte to its last. A context manager; one thread at a time."""

    def __init__(self, path: Path) -> None:
        self.position = 0
        self._file = path.open("xb", buffering=0)
        self._hasher = hashlib.sha256()

    def write(self, values: NDArray[Any]) -> int:
        """Append the bytes of an array of any shape and dtype, row-major; how many they are. OSError: a full disk."""
        view = np.ascontiguousarray(values).reshape(-1).view(np.uint8).data
        size = len(view)
        self._hasher.update(view)
        while view:  # a write may stop early: after 2 GiB, or where the disk ends
            view = view[self._file.write(view) :]
        self.position += size
        return size

    @property
    def sha256(self) -> str:
        """Digest of all that was written so far, in lower-case hex."""
        return self._hasher.hexdigest()

    def __enter__(self) -> HashedFile:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

"""A file that is hashed while it is written holds what was given, and its digest is of what it holds."""

from __future__ import annotations

import errno
import hashlib
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from pipeline.weights.hashed import HashedFile

DTYPES = st.sampled_from([np.dtype(one) for one in (np.uint8, np.int16, np.float32, np.float16, ml_dtypes.bfloat16)])
SHAPES = arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=9)


@st.composite
def values(draw: Any) -> np.ndarray:
    dtype, shape = draw(DTYPES), draw(SHAPES)
    size = int(np.prod(shape)) * dtype.itemsize
    array = np.frombuffer(draw(st.binary(min_size=size, max_size=size)), np.uint8).view(dtype).reshape(shape)
    return array.T if draw(st.booleans()) else array


@given(pieces=st.lists(values(), max_size=6))
def test_bytes_position_and_digest(pieces: list[np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> None:
    path, position = tmp_path_factory.mktemp("hashed") / "file", 0
    with HashedFile(path) as file:
        for piece in pieces:
            assert file.position == position
            assert file.write(piece) == piece.nbytes
            position += piece.nbytes
    assert path.read_bytes() == b"".join(piece.tobytes() for piece in pieces)
    assert file.position == position
    assert file.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_write_that_stops_early_goes_on(tmp_path: Path) -> None:
    """As Linux does after 2 GiB less a page, or where a disk has little room left."""
    file = HashedFile(tmp_path / "file")
    raw = file._file

    class Slow:
        def write(self, data: memoryview) -> int:
            return raw.write(data[:7]) or 0

        def close(self) -> None:
            raw.close()

    file._file = Slow()  # type: ignore[assignment]
    with file:
        file.write(np.arange(100, dtype=np.uint32))
    assert (tmp_path / "file").read_bytes() == np.arange(100, dtype=np.uint32).tobytes()
    assert file.sha256 == hashlib.sha256((tmp_path / "file").read_bytes()).hexdigest()


def test_a_full_disk_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "full").symlink_to("/dev/full")
    with pytest.raises(FileExistsError):  # a new file only: its digest is of all that it holds
        HashedFile(tmp_path / "full")
    file = HashedFile(tmp_path / "file")
    file._file.close()
    file._file = open("/dev/full", "wb", buffering=0)  # noqa: SIM115 - HashedFile closes it
    with pytest.raises(OSError) as caught, file:
        file.write(np.zeros(8))
    assert caught.value.errno == errno.ENOSPC

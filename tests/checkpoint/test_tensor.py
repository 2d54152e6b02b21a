"""Reading bytes and rows from files."""

from __future__ import annotations

import mmap
import os
import threading
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from pipeline.checkpoint.tensor import NUMPY_DTYPES, ArrayTensor, ByteFile, FileTensor, QuantisedTensor, to_float32
from pipeline.errors import StageFailed


@pytest.fixture
def matrix(tmp_path: Path) -> tuple[FileTensor, np.ndarray]:
    values = np.arange(7 * 5, dtype=np.float32).reshape(7, 5)
    path = tmp_path / "m.bin"
    path.write_bytes(b"head" + values.tobytes())
    return FileTensor(ByteFile(path), 4, (7, 5), "F32"), values


@pytest.mark.parametrize("rows", [(0, None), (0, 7), (2, 5), (3, 3), (6, 7), (5, 99), (0, 0), (-2, None)])
def test_rows_are_numpys(matrix: tuple[FileTensor, np.ndarray], rows: tuple[int, int | None]) -> None:
    tensor, values = matrix
    read = tensor.read(*rows)
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, values[slice(*rows)])


def test_only_the_rows_asked_for_are_read(tmp_path: Path) -> None:
    path = tmp_path / "m.bin"
    path.write_bytes(np.arange(20, dtype=np.float32).tobytes()[:40])
    tensor = FileTensor(ByteFile(path), 0, (10, 2), "F32")
    np.testing.assert_array_equal(tensor.read(0, 5), np.arange(10, dtype=np.float32).reshape(5, 2))
    with pytest.raises(StageFailed, match=r"m\.bin ends at byte 40, 8 bytes early"):
        tensor.read(5, 6)


def test_scalar_and_axes(tmp_path: Path) -> None:
    path = tmp_path / "m.bin"
    values = np.arange(24, dtype=np.float16)
    path.write_bytes(values.tobytes())
    assert FileTensor(ByteFile(path), 2, (), "F16").read() == np.float16(1)
    cube = FileTensor(ByteFile(path), 0, (4, 3, 2), "F16")
    np.testing.assert_array_equal(cube.read(1, 3), values.reshape(4, 3, 2)[1:3])


def test_empty_tensor(tmp_path: Path) -> None:
    (tmp_path / "m.bin").write_bytes(b"x")
    assert FileTensor(ByteFile(tmp_path / "m.bin"), 0, (0, 4), "F32").read().shape == (0, 4)


@pytest.mark.parametrize("name", sorted(NUMPY_DTYPES))
def test_every_dtype_comes_as_it_is_stored(tmp_path: Path, name: str) -> None:
    dtype = NUMPY_DTYPES[name]
    values = np.array([0, 1, 1, 0], np.uint8).astype(dtype)
    (tmp_path / "m.bin").write_bytes(values.tobytes())
    read = FileTensor(ByteFile(tmp_path / "m.bin"), 0, (2, 2), name).read()
    assert read.dtype == dtype and read.tobytes() == values.tobytes()


def test_nothing_is_mapped(matrix: tuple[FileTensor, np.ndarray]) -> None:
    tensor, _ = matrix
    tensor.read()
    assert str(tensor.file.path) not in Path("/proc/self/maps").read_text()
    assert not isinstance(tensor.read().base, mmap.mmap)


def test_threads_may_read_at_once(matrix: tuple[FileTensor, np.ndarray]) -> None:
    tensor, values = matrix
    wrong: list[int] = []

    def work(row: int) -> None:
        for _ in range(300):
            if not np.array_equal(tensor.read(row, row + 1), values[row : row + 1]):
                wrong.append(row)

    threads = [threading.Thread(target=work, args=(row,)) for row in range(7)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_descriptors_are_given_back(tmp_path: Path) -> None:
    (tmp_path / "m.bin").write_bytes(bytes(8))
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        ByteFile(tmp_path / "m.bin").read(0, 8)
    assert len(os.listdir("/proc/self/fd")) == before


def test_array_tensor() -> None:
    values = np.arange(6, dtype=np.float32).reshape(3, 2)
    tensor = ArrayTensor(values)
    assert tensor.shape == (3, 2) and tensor.dtype == "F32"
    np.testing.assert_array_equal(tensor.read(1, 2), values[1:2])
    assert ArrayTensor(np.float32(3) * np.ones((), np.float32)).read() == 3
    assert not isinstance(tensor, QuantisedTensor)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32])
def test_to_float32_is_exact(dtype: type) -> None:
    values = np.linspace(-3, 3, 100).astype(dtype)
    assert np.array_equal(to_float32(values).astype(dtype), values)

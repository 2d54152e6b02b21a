"""Our reading of safetensors against the safetensors library's writing, and every way in which a file can be wrong."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from pipeline.checkpoint.safetensors import read_safetensors, read_shards, write_safetensors
from pipeline.errors import StageFailed


@pytest.fixture
def tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "a.weight": torch.randn(6, 4, generator=generator),
        "b.weight": torch.randn(5, 3, 2, generator=generator).to(torch.bfloat16),
        "c.bias": torch.randn(7, generator=generator).to(torch.float16),
        "d.scalar": torch.tensor(2.5),
        "e.codes": torch.arange(12, dtype=torch.int32).reshape(3, 4),
        "f.fp8": torch.randn(4, 4, generator=generator).to(torch.float8_e4m3fn),
    }


@pytest.fixture
def path(tmp_path: Path, tensors: dict[str, torch.Tensor]) -> Path:
    save_file(tensors, str(tmp_path / "m.safetensors"), metadata={"format": "pt"})
    return tmp_path / "m.safetensors"


def test_tensors_are_those_of_the_library(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    found = read_safetensors(path)
    assert set(found) == set(tensors)
    for name, expected in tensors.items():
        assert found[name].shape == tuple(expected.shape)
        assert found[name].read().tobytes() == expected.flatten().view(torch.uint8).numpy().tobytes()
    assert {name: tensor.dtype for name, tensor in found.items()} == {
        "a.weight": "F32", "b.weight": "BF16", "c.bias": "F16", "d.scalar": "F32", "e.codes": "I32",
        "f.fp8": "F8_E4M3"}  # fmt: skip


def test_rows_of_bfloat16(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    rows = read_safetensors(path)["b.weight"].read(1, 4)
    assert rows.dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(rows.astype(np.float32), tensors["b.weight"][1:4].float().numpy())


def test_written_file_is_read_by_the_library(tmp_path: Path) -> None:
    arrays: dict[str, Any] = {
        "z": np.arange(6, dtype=np.float32).reshape(2, 3),
        "a": np.arange(5).astype(ml_dtypes.bfloat16),
        "scalar": np.float16(1.5) * np.ones((), np.float16),
        "empty": np.zeros((0, 4), np.float32),
    }
    write_safetensors(tmp_path / "w.safetensors", arrays)
    with safe_open(str(tmp_path / "w.safetensors"), "pt") as file:
        assert sorted(file.keys()) == sorted(arrays)
        for name, expected in arrays.items():
            np.testing.assert_array_equal(file.get_tensor(name).float().numpy(), expected.astype(np.float32))


def test_written_bytes_do_not_depend_on_the_order(tmp_path: Path) -> None:
    a, b = np.ones(3, np.float32), np.zeros(2, np.float32)
    write_safetensors(tmp_path / "1", {"a": a, "b": b})
    write_safetensors(tmp_path / "2", {"b": b, "a": a})
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()


@pytest.mark.parametrize("lost", [1, 4, 100])
def test_truncated(path: Path, lost: int) -> None:
    path.write_bytes(path.read_bytes()[:-lost])
    with pytest.raises(StageFailed, match="truncated") as caught:
        read_safetensors(path)
    assert caught.value.next_step and path.name in str(caught.value)


@pytest.mark.parametrize("kept", [0, 4, 8, 60])
def test_truncated_in_the_header(path: Path, kept: int) -> None:
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(StageFailed, match=r"m\.safetensors"):
        read_safetensors(path)


def craft(path: Path, header: object, data: bytes) -> Path:
    """A file with this header, whatever it says."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def entry(first: int, last: int, shape: list[int], dtype: str = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [first, last]}


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"a": entry(0, 8, [2]), "b": entry(4, 12, [2])}, "overlaps the tensor before it"),
        ({"a": entry(0, 8, [2]), "b": entry(0, 8, [2])}, "overlaps the tensor before it"),
        ({"a": entry(0, 8, [2]), "b": entry(12, 16, [1])}, "leaves a hole"),
        ({"a": entry(0, 8, [2])}, "8 bytes after its last tensor"),
        ({"a": entry(0, 16, [3])}, r"16 bytes cannot be F32 \[3\]"),
        ({"a": entry(0, 16, [-4, -1])}, "cannot be"),
        ({"a": entry(-4, 12, [4])}, "truncated"),
        ({"a": entry(0, 16, [4], "F4")}, "dtype F4"),
        ({"a": {"dtype": "F32"}}, "no dtype, shape and data_offsets"),
        ({"a": 3}, "no dtype, shape and data_offsets"),
        ([1, 2], "header is not JSON"),
        (b"{not json", "header is not JSON"),
        ({"a": entry(0, 1 << 70, [1 << 68])}, "truncated"),
    ],
)
def test_damaged_header(tmp_path: Path, header: object, message: str) -> None:
    with pytest.raises(StageFailed, match=message):
        read_safetensors(craft(tmp_path / "x.safetensors", header, bytes(16)))


def test_header_longer_than_the_file(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(struct.pack("<Q", 1 << 60) + b"{}")
    with pytest.raises(StageFailed, match="header claims"):
        read_safetensors(tmp_path / "x")


@pytest.fixture
def shards(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"s{i}.safetensors" for i in (1, 2)]
    for number, path in enumerate(paths, 1):
        save_file({f"t{number}": torch.full((3,), float(number))}, str(path))
    return paths


def test_shards_together(shards: list[Path]) -> None:
    found = read_shards(shards, {"t1": "s1.safetensors", "t2": "s2.safetensors"})
    assert [float(found[f"t{i}"].read()[0]) for i in (1, 2)] == [1.0, 2.0]


@pytest.mark.parametrize(
    ("weight_map", "message"),
    [
        ({"t1": "s1.safetensors"}, "t2, which the index does not name"),
        (
            {"t1": "s1.safetensors", "t2": "s2.safetensors", "t3": "s2.safetensors"},
            "t3 is in s2.safetensors; it is not",
        ),
        ({"t1": "s2.safetensors", "t2": "s2.safetensors"}, "t1 is in s2.safetensors; it is not"),
    ],
)
def test_index_that_disagrees(shards: list[Path], weight_map: dict[str, str], message: str) -> None:
    with pytest.raises(StageFailed, match=message):
        read_shards(shards, weight_map)


def test_tensor_in_two_shards(shards: list[Path]) -> None:
    save_file({"t1": torch.zeros(3)}, str(shards[1]))
    with pytest.raises(StageFailed, match="t1 is in two shards"):
        read_shards(shards, None)

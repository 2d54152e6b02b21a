"""Pickled weights: what torch.save wrote, read without torch; and files that want to do more than describe tensors."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.checkpoint import open_checkpoint
from pipeline.checkpoint.pickled import read_pickled
from pipeline.errors import StageFailed


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shared = torch.randn(6, 4, generator=generator)
    return {
        "a.weight": shared,
        "a.rows": shared[2:5],  # shares the storage, at an offset
        "b.weight": torch.randn(3, 5, generator=generator).to(torch.bfloat16),
        "c.bias": torch.randn(7, generator=generator).half(),
        "d.ids": torch.arange(4),
        "e.parameter": torch.nn.Parameter(torch.randn(2, 2, generator=generator)),
    }


def test_tensors_are_torchs(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    torch.save(state, tmp_path / "pytorch_model.bin")
    found = read_pickled([tmp_path / "pytorch_model.bin"])
    assert sorted(found) == sorted(state)
    for name, expected in state.items():
        raw = expected.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes()
        assert found[name].shape == tuple(expected.shape) and found[name].read().tobytes() == raw
    np.testing.assert_array_equal(found["a.weight"].read(1, 3), state["a.weight"][1:3].numpy())


def test_folder_with_shards(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    torch.save({"a.weight": state["a.weight"]}, tmp_path / "pytorch_model-00001-of-00002.bin")
    torch.save({"c.bias": state["c.bias"]}, tmp_path / "pytorch_model-00002-of-00002.bin")
    assert sorted(open_checkpoint(tmp_path)) == ["a.weight", "c.bias"]
    torch.save({"a.weight": state["a.weight"]}, tmp_path / "pytorch_model-00002-of-00002.bin")
    with pytest.raises(StageFailed, match=r"a\.weight is in two files"):
        open_checkpoint(tmp_path)


class Evil:
    """What an attacker would pickle."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def archive(path: Path, value: object) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", pickle.dumps(value, protocol=2))
    return path


def test_nothing_runs(tmp_path: Path) -> None:
    path = archive(tmp_path / "x.bin", {"a": Evil(tmp_path / "touched")})
    with pytest.raises(StageFailed, match="which weights do not need"):
        read_pickled([path])
    assert not (tmp_path / "touched").exists()
    pickle.loads(pickle.dumps(Evil(tmp_path / "touched")))
    assert (tmp_path / "touched").exists(), "the attack itself must work, or the test cannot fail"


@pytest.mark.parametrize("value", [[1, 2], {"a": 3}, {"a": {"b": 1}}, "text"])
def test_other_things_than_a_state_dict(tmp_path: Path, value: object) -> None:
    with pytest.raises(StageFailed, match="is not a state dict"):
        read_pickled([archive(tmp_path / "x.bin", value)])


def test_view_with_strides(tmp_path: Path) -> None:
    torch.save({"a": torch.randn(4, 6).T}, tmp_path / "x.bin")
    with pytest.raises(StageFailed, match="view with strides"):
        read_pickled([tmp_path / "x.bin"])


@pytest.mark.parametrize("kept", [0, 10, 500, 900])
def test_cut_short(tmp_path: Path, kept: int, state: dict[str, torch.Tensor]) -> None:
    torch.save(state, tmp_path / "x.bin")
    (tmp_path / "x.bin").write_bytes((tmp_path / "x.bin").read_bytes()[:kept])
    with pytest.raises(StageFailed, match="not a file of torch"):
        read_pickled([tmp_path / "x.bin"])


def test_old_format(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    torch.save(state, tmp_path / "x.bin", _use_new_zipfile_serialization=False)
    with pytest.raises(StageFailed, match="not a file of torch"):
        read_pickled([tmp_path / "x.bin"])


def test_storage_that_is_too_short(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(100)}, tmp_path / "x.bin")
    with zipfile.ZipFile(tmp_path / "x.bin") as old, zipfile.ZipFile(tmp_path / "y.bin", "w") as new:
        for entry in old.infolist():
            new.writestr(entry.filename, old.read(entry)[: 8 if entry.filename.endswith("data/0") else None])
    with pytest.raises(StageFailed, match="are not where the file says"):
        read_pickled([tmp_path / "y.bin"])

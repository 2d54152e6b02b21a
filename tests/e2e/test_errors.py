"""Every mistake of a person, and every failure of the machine, is one line with a next step and the right exit code."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from transformers import AutoConfig

from pipeline.verify.random_model import random_model, write_folder
from tests.e2e.workshop import MODEL, Workshop
from tests.verify.helpers import write_model

WRONG, FAILED = 3, 1
Damage = Callable[[Path], None]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("sound") / "model")


@pytest.fixture
def folder(sound: Path, tmp_path: Path) -> Path:
    """A copy of a tiny llama's folder, to be damaged."""
    return shutil.copytree(sound, tmp_path / "llama")


def local(folder: Path, *more: str) -> list[str]:
    return ["model=local", f"model.path={folder}", "quant=int8", "verify=off", *more]


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        (["model=smolm2-135m"], ["smolm2-135m", "Did you mean 'smollm2-135m'"]),
        ([MODEL, "quant=int44"], ["int44", "Did you mean 'int4'"]),
        ([MODEL, "quant.bit=4"], ["bit", "bits"]),
        ([MODEL, "quant.bits=four"], ["four"]),
        (["model=local", "model.path=/no/such/folder"], ["/no/such/folder"]),
        ([MODEL, "quant.block=7"], ["quant.block=7", "multiple of 16"]),
    ],
)
def test_wrong_requests(bench: Workshop, overrides: list[str], parts: list[str]) -> None:
    result = bench.export(*overrides)
    assert result.code == WRONG, result.out + result.err
    for part in parts:
        assert part in result.error


def drop_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def lfs_pointer(folder: Path) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 269060552\n"
    (folder / "model.safetensors").write_text(pointer)


def pickle_only(folder: Path) -> None:
    state = {name: torch.from_numpy(np.zeros(4, np.float32)) for name in ("a", "b")}
    torch.save(state, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def truncate(folder: Path) -> None:
    file = folder / "model.safetensors"
    os.truncate(file, file.stat().st_size - 1000)


def tensors(folder: Path) -> dict[str, np.ndarray]:
    import ml_dtypes  # noqa: F401 - lets numpy hold bfloat16

    return dict(load_file(folder / "model.safetensors"))


def drop_tensor(folder: Path) -> None:
    found = tensors(folder)
    del found["model.layers.1.mlp.up_proj.weight"]
    save_file(found, folder / "model.safetensors")


def add_tensor(folder: Path) -> None:
    save_file({**tensors(folder), "model.layers.1.mlp.extra.weight": np.zeros((4, 4), np.float32)},
              folder / "model.safetensors")  # fmt: skip


@pytest.mark.parametrize(
    ("damage", "parts"),
    [
        (drop_config, ["config.json"]),
        (lfs_pointer, ["Git LFS"]),
        (pickle_only, ["allow_pickle"]),
        (truncate, ["model.safetensors"]),
        (drop_tensor, ["model.layers.1.mlp.up_proj.weight"]),
        (add_tensor, ["model.layers.1.mlp.extra.weight"]),
    ],
)
def test_damaged_models(bench: Workshop, folder: Path, damage: Damage, parts: list[str]) -> None:
    damage(folder)
    result = bench.export(*local(folder))
    assert result.code in (WRONG, FAILED), result.out + result.err
    for part in parts:
        assert part in result.error
    assert bench.products() == set() if (bench.root / "artifacts").exists() else True


def test_a_block_that_divides_no_matrix(bench: Workshop, folder: Path) -> None:
    result = bench.export(*local(folder, "quant.block=48"))
    assert result.code in (WRONG, FAILED), result.out + result.err
    assert "48" in result.error
    assert "128" in result.error


def test_an_architecture_without_attention_interface(bench: Workshop, tmp_path: Path) -> None:
    config = AutoConfig.for_model("bloom", vocab_size=256, hidden_size=64, n_layer=2, n_head=2)
    write_folder(random_model(config), tmp_path / "bloom", tmp_path)
    result = bench.export(*local(tmp_path / "bloom"))
    assert result.code == WRONG, result.out + result.err
    assert "bloom" in result.error.lower()


def test_a_hub_out_of_reach(bench: Workshop) -> None:
    result = bench.export("model=qwen2-0.5b", "quant=int4", "verify=off", HF_ENDPOINT="http://127.0.0.1:9")
    assert result.code in (WRONG, FAILED)
    assert "127.0.0.1:9" in result.error or "reach" in result.error


@pytest.mark.parametrize("script", ["kill -9 $$", "exit 0", "echo broken >&2; exit 5"])
def test_a_converter_that_dies_or_writes_nothing(bench: Workshop, folder: Path, script: str) -> None:
    converter = folder.parent / "converter"
    converter.write_text(f"#!/bin/sh\n{script}\n")
    converter.chmod(0o755)
    result = bench.export(*local(folder, f"target.mnnconvert={converter}"))
    assert result.code == FAILED, result.out + result.err
    assert "onvert" in result.error


def test_a_converter_that_is_not_there(bench: Workshop, folder: Path) -> None:
    result = bench.export(*local(folder, "target.mnnconvert=/no/such/MNNConvert"))
    assert result.code == WRONG, result.out + result.err
    assert "/no/such/MNNConvert" in result.error


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 300 kB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(place)], capture_output=True)
    if mounted.returncode:
        pytest.skip("only root may mount a small file system")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_full_disk(bench: Workshop, folder: Path, small_disk: Path) -> None:
    result = bench.export(*local(folder, f"cache.dir={small_disk}"))
    assert result.code in (WRONG, FAILED), result.out + result.err
    assert "disk" in result.error or "space" in result.error

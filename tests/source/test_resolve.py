"""From recipe.model to a listing: which kind of source is meant, and GPTQ and adapter folders beside it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.errors import UserError
from pipeline.source import resolve, resolve_adapter
from tests.source.conftest import KeptLog


def adapter(folder: Path, weights: str = "adapter_model.safetensors") -> Path:
    folder.mkdir()
    (folder / "adapter_config.json").write_text("{}")
    (folder / weights).write_bytes(b"weights")
    (folder / "README.md").write_text("not needed")
    return folder


def test_path_goes_before_the_hub(folder: Path, tmp_path: Path, log: KeptLog) -> None:
    listing = resolve({"hub": "huggingface", "repo": "a/b", "path": str(folder)}, tmp_path / "cache", log)
    assert listing.kind == "directory" and listing.revision == ""


def test_an_edit_that_restores_size_and_time_is_noticed(folder: Path, tmp_path: Path, log: KeptLog) -> None:
    past = time.time_ns() - 10**10
    for path in folder.glob("*.*"):
        os.utime(path, ns=(past, past))
    model = {"hub": "local", "path": str(folder)}
    first = resolve(model, tmp_path / "cache", log)
    assert resolve(model, tmp_path / "cache", log) == first
    weights = folder / "model.safetensors"
    content, stat = weights.read_bytes(), weights.stat()
    with weights.open("r+b") as file:  # same inode, size and modification time: the change time tells
        file.write(bytes(len(content)))
    os.utime(weights, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert resolve(model, tmp_path / "cache", log).files["model.safetensors"] != first.files["model.safetensors"]


def test_gptq_folder_is_beside_the_base(folder: Path, tmp_path: Path, log: KeptLog) -> None:
    gptq = tmp_path / "quantised"
    gptq.mkdir()
    for name in ("config.json", "model.safetensors"):
        (gptq / name).write_bytes((folder / name).read_bytes())
    listing = resolve({"path": str(folder), "gptq_path": str(gptq)}, tmp_path / "cache", log)
    assert {"gptq/config.json", "gptq/model.safetensors", "model.safetensors"} < set(listing.files)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"hub": "local"}, "model.path is not set"),
        ({"hub": "elsewhere"}, "model.hub=elsewhere is not a hub"),
        ({"hub": "huggingface"}, "model.repo is not set"),
        ({"path": "{folder}", "gptq_path": "/nowhere"}, "gptq_path=/nowhere"),
    ],
)
def test_mistakes(folder: Path, tmp_path: Path, log: KeptLog, model: dict[str, str], message: str) -> None:
    model = {key: value.format(folder=folder) for key, value in model.items()}
    with pytest.raises(UserError, match=message) as caught:
        resolve(model, tmp_path / "cache", log)
    assert caught.value.next_step


def test_adapters_keep_their_order(tmp_path: Path, log: KeptLog) -> None:
    first, second = adapter(tmp_path / "b"), adapter(tmp_path / "a")
    listing = resolve_adapter({"path": f"{first}+{second}"}, tmp_path / "cache", log)
    assert listing.files["0/adapter_config.json"].path.parent == first
    assert listing.files["1/adapter_model.safetensors"].path.parent == second
    assert "0/README.md" not in listing.files


def test_one_adapter_keeps_its_names(tmp_path: Path, log: KeptLog) -> None:
    folder = adapter(tmp_path / "a+b")
    listing = resolve_adapter({"path": str(folder)}, tmp_path / "cache", log)
    assert sorted(listing.files) == ["adapter_config.json", "adapter_model.safetensors"]
    with pytest.raises(UserError, match=r"adapter\.path is not set"):
        resolve_adapter({"path": ""}, tmp_path / "cache", log)


def test_weighted_adapters(tmp_path: Path, log: KeptLog) -> None:
    first, second = adapter(tmp_path / "a"), adapter(tmp_path / "b@2")
    listing = resolve_adapter({"path": f"{first}@0.70+{second}"}, tmp_path / "cache", log)
    assert listing.files["0@0.7/adapter_config.json"].path.parent == first
    assert listing.files["1/adapter_config.json"].path.parent == second
    assert "0@0.5/adapter_config.json" in resolve_adapter({"path": f"{first}@.5"}, tmp_path / "cache", log).files
    with pytest.raises(UserError, match="'half' is no weight"):
        resolve_adapter({"path": f"{first}@half"}, tmp_path / "cache", log)


def test_adapter_mistakes(tmp_path: Path, log: KeptLog) -> None:
    adapter(tmp_path / "pickled", "adapter_model.bin")
    (tmp_path / "empty").mkdir()
    for name, message in (("pickled", "only a pickled"), ("empty", "not a PEFT adapter"), ("gone", "no such folder")):
        with pytest.raises(UserError, match=message):
            resolve_adapter({"path": str(tmp_path / name)}, tmp_path / "cache", log)


def test_importing_costs_nothing() -> None:
    code = (
        "import sys, pipeline.source\n"
        "heavy = {'torch', 'numpy', 'huggingface_hub', 'modelscope', 'gguf', 'hydra'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_split_adapters_stay_apart_under_their_names(tmp_path: Path, log: KeptLog) -> None:
    first, second = adapter(tmp_path / "a"), adapter(tmp_path / "b")
    listing = resolve_adapter({"mode": "split", "path": f"p={first}+{second}@0.5"}, tmp_path / "cache", log)
    assert listing.files["p/adapter_config.json"].path.parent == first
    assert listing.files["b@0.5/adapter_model.safetensors"].path.parent == second
    alone = resolve_adapter({"mode": "split", "path": str(first)}, tmp_path / "cache", log)
    assert {name.partition("/")[0] for name in alone.files} == {"lora"}


def test_names_are_for_split_adapters(tmp_path: Path, log: KeptLog) -> None:
    with pytest.raises(UserError, match="p= names a split adapter, these are merged"):
        resolve_adapter({"mode": "merge", "path": f"p={adapter(tmp_path / 'a')}"}, tmp_path / "cache", log)

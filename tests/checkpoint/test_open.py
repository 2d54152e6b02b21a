"""One way in: what a source folder's files are taken for."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from pipeline.checkpoint import open_checkpoint, open_model
from pipeline.checkpoint.files import read_json
from pipeline.errors import StageFailed


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    folder = tmp_path / "m"
    folder.mkdir()
    for number in (1, 2):
        save_file({f"t{number}": np.full(3, number, np.float32)}, str(folder / f"s{number}.safetensors"))
    index = {"weight_map": {"t1": "s1.safetensors", "t2": "s2.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def test_shards(sharded: Path) -> None:
    checkpoint = open_checkpoint(sharded)
    assert sorted(checkpoint) == ["t1", "t2"] and checkpoint["t2"].read().tolist() == [2, 2, 2]


def test_missing_shard(sharded: Path) -> None:
    (sharded / "s2.safetensors").unlink()
    save_file({"other": np.ones(1, np.float32)}, str(sharded / "x.safetensors"))
    with pytest.raises(StageFailed, match="t2 is in s2"):
        open_checkpoint(sharded)


def test_no_weights(tmp_path: Path) -> None:
    with pytest.raises(StageFailed, match="no weights"):
        open_checkpoint(tmp_path)


def test_gguf(smollm2: Path, tmp_path: Path) -> None:
    (tmp_path / smollm2.name).symlink_to(smollm2)
    assert len(open_checkpoint(tmp_path)) == 272


def test_adapter_only_when_it_is_merged(sharded: Path, tmp_path: Path) -> None:
    assert len(open_model({}, {"source": sharded})) == 2
    assert len(open_model({"adapter": {"mode": "split"}}, {"source": sharded, "adapter": tmp_path / "gone"})) == 2


def test_json_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_bytes(b"\xff{")
    with pytest.raises(StageFailed, match=r"x\.json is not JSON"):
        read_json(tmp_path / "x.json")


def test_no_torch() -> None:
    code = "import sys, pipeline.checkpoint, pipeline.checkpoint.gguf_tokenizer\nassert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)

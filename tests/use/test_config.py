"""Showing and changing run-time keys: the file stays valid, and the engine sees the change."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from pipeline.errors import UserError
from pipeline.mnn.runner import Engine
from pipeline.runtime.keys import KEYS
from pipeline.use.config import main


@pytest.fixture
def copy(product: Path, tmp_path: Path) -> Path:
    folder = Path(shutil.copytree(product, tmp_path / "copy"))
    model = json.loads((folder / "llm_config.json").read_text())
    kept = {key: value for key, value in model.items() if key in KEYS}
    (folder / "llm_config.json").write_text(json.dumps(kept))
    return folder


def test_it_shows_every_key_with_its_meaning(product: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(product)]) == 0
    out = capsys.readouterr().out
    assert "top_k = 20  #" in out
    assert "hidden_size = 64  #" in out


def test_a_change_reaches_the_engine(copy: Path) -> None:
    assert main([str(copy), "thread_num=2", "max_new_tokens=9"]) == 0
    with Engine(copy) as engine:
        assert (engine.config["thread_num"], engine.config["max_new_tokens"]) == (2, 9)


def test_a_key_can_be_taken_out(copy: Path) -> None:
    assert main([str(copy), "top_k="]) == 0
    assert "top_k" not in json.loads((copy / "config.json").read_text())


@pytest.mark.parametrize(
    "assignment",
    ["thred_num=2", "thread_num=many", "thread_num=0", "llm_weight=../elsewhere", "nothing=", "block_model=x"],
)
def test_wrong_changes_change_nothing(copy: Path, assignment: str) -> None:
    before = {name: (copy / name).read_bytes() for name in ("config.json", "llm_config.json")}
    with pytest.raises(UserError):
        main([str(copy), "top_p=0.5", assignment])
    assert {name: (copy / name).read_bytes() for name in before} == before


def test_a_wrong_value_in_the_file_is_told(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"thread_num": "two"}))
    assert main([str(copy)]) == 1
    assert "wrong: config.json: thread_num must be a whole number" in capsys.readouterr().out


def test_json(product: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(product), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["hidden_size"] == 64

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

Capture = pytest.CaptureFixture[str]


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
    assert "wrong: config.json: thread_num must be a whole number" in capsys.readouterr().err


def test_names_that_exporters_write_are_no_mistake(product: Path, tmp_path: Path, capsys: Capture) -> None:
    """model_type, max_position_embeddings and dead names of older exporters: shown, kept, editable, taken out."""
    folder = Path(shutil.copytree(product, tmp_path / "copy"))
    path = folder / "llm_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"key_value_shape": [2, 1], "prompt_template": "%s"}))
    assert main([str(folder), "thread_num=2"]) == 0
    said = capsys.readouterr()
    assert 'model_type = "qwen3"  # the engine does not read this' in said.out
    assert "note: prompt_template: engine 3.6.1 ignores it" in said.err
    kept = json.loads(path.read_text())
    assert kept["model_type"] == "qwen3"
    assert kept["max_position_embeddings"] == 512
    assert main([str(folder), "prompt_template="]) == 0
    assert "prompt_template" not in json.loads(path.read_text())


def test_an_unknown_key_is_wrong_until_it_is_taken_out(copy: Path, capsys: Capture) -> None:
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"thred_num": 2}))
    assert main([str(copy)]) == 1
    assert "Did you mean 'thread_num'?" in capsys.readouterr().err
    with pytest.raises(UserError, match="would not be valid: thred_num"):
        main([str(copy), "top_p=0.5"])
    assert main([str(copy), "thred_num="]) == 0


def test_json(product: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(product), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["hidden_size"] == 64


def test_a_base_dir_elsewhere_is_wrong_and_can_be_mended(copy: Path, capsys: Capture) -> None:
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"base_dir": "/etc/"}))
    assert main([str(copy)]) == 1
    assert "base_dir: '/etc/' leaves the product's folder" in capsys.readouterr().err
    assert main([str(copy / "config.json"), "base_dir="]) == 0

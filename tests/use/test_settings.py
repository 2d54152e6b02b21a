"""Trust: a product's files may come from anywhere, so every verb refuses what native code must not see, in one line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from pipeline.__main__ import main

PROMPTS = {"chat": [], "run": ["prompts.txt"], "serve": ["--port", "0"], "bench": ["-p", "4", "-n", "0"]}


@pytest.fixture
def copy(product: Path, tmp_path: Path) -> Path:
    (tmp_path / "prompts.txt").write_text("Hi\n")
    return Path(shutil.copytree(product, tmp_path / "copy"))


def _set(folder: Path, file: str, changes: dict[str, Any]) -> None:
    path = folder / file
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("verb", list(PROMPTS))
@pytest.mark.parametrize(
    ("file", "changes", "said"),
    [
        ("config.json", {"llm_weight": "../../etc/passwd"}, "leaves the product's folder"),
        ("config.json", {"tokenizer_file": "/etc/passwd"}, "leaves the product's folder"),
        ("config.json", {"base_dir": "/etc/"}, "base_dir: '/etc/' leaves the product's folder"),
        ("llm_config.json", {"base_dir": "../"}, "base_dir: '../' leaves the product's folder"),
        ("config.json", {"thread_num": 1 << 40}, "thread_num must be at most 1024"),
        ("config.json", {"thread_num": "2"}, "thread_num must be a whole number, not '2'"),
        ("config.json", {"max_new_tokens": -1}, "max_new_tokens must be at least 1"),
        ("config.json", {"mixed_samplers": "topK"}, "mixed_samplers must be a list"),
        ("llm_config.json", {"hidden_size": 10**12}, "the embedding's size"),
        ("llm_config.json", {"jinja": {"chat_template": 5}}, "jinja.chat_template must be text"),
    ],
)
def test_every_verb_refuses_it_before_the_engine(
    copy: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, verb: str, file: str,
    changes: dict[str, Any], said: str,
) -> None:  # fmt: skip
    _set(copy, file, changes)
    monkeypatch.chdir(copy.parent)

    def never(*_: object, **__: object) -> None:
        raise AssertionError("the engine was started")

    monkeypatch.setattr("pipeline.mnn.runner.engine.Engine._start", never)
    code = main([verb, str(copy), *PROMPTS[verb]])
    lines = capsys.readouterr().err.strip().splitlines()
    assert code in (1, 3)
    assert len(lines) == 1
    assert said in lines[0]


@pytest.mark.parametrize("name", ["llm.mnn", "llm.mnn.weight", "tokenizer.txt", "llm_config.json", "config.json"])
def test_a_missing_file_is_named(copy: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    (copy / name).unlink()
    assert main(["chat", str(copy)]) in (1, 3)
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert name in lines[0]

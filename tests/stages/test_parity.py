"""The parity stage: what it writes of equal files, of wrong ones, and of one that crashes the engine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken

from pipeline.stages import parity, tokenizer
from pipeline.verify.tokenizer import parity_checks
from tests.tokenizer import tiny

from .test_tokenizer import Notes

TEMPLATE = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}{{ 'go' }}"
CONFIG = {"bos_token": "<s>", "eos_token": "</s>"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A checkpoint and its product's tokenizer."""
    root = tmp_path_factory.mktemp("parity")
    checkpoint = tiny.save(tiny.smol(), root / "checkpoint", CONFIG, TEMPLATE)
    (root / "tokenizer").mkdir()
    tokenizer.run({"target": {}}, {"checkpoint": checkpoint}, root / "tokenizer", Notes())
    return {"checkpoint": checkpoint, "tokenizer": root / "tokenizer"}


def _told(inputs: dict[str, Path], out: Path, task: str = "text") -> dict[str, Any]:
    out.mkdir()
    parity.run({"model": {"task": task}, "verify": {"mode": "fast"}}, inputs, out, Notes())
    told = json.loads((out / "parity.json").read_text(encoding="utf-8"))
    assert isinstance(told, dict)
    return told


def test_equal_tokenizers_pass_the_gate(folders: dict[str, Path], tmp_path: Path) -> None:
    told = _told(folders, tmp_path / "out")
    assert told["parity"]["texts"] == 1_500 and told["parity"]["conversations"] >= 30
    assert [check.passed for check in parity_checks(told, accept_limits=False)] == [True, True]
    _told(folders, tmp_path / "again")
    assert (tmp_path / "out/parity.json").read_bytes() == (tmp_path / "again/parity.json").read_bytes()


def test_another_model_s_tokenizer_and_template_are_found(folders: dict[str, Path], tmp_path: Path) -> None:
    other = tiny.with_tokens(tiny.gpt2(), AddedToken("<more>"))
    checkpoint = tiny.save(other, tmp_path / "other", CONFIG, TEMPLATE.replace("\n", " ", 1))
    told = _told({**folders, "checkpoint": checkpoint}, tmp_path / "out")
    assert told["parity"]["encode_differences"] > 100 and told["parity"]["template_differences"] > 30
    assert [check.passed for check in parity_checks(told, accept_limits=True)] == [False, False]


def test_the_prompts_come_from_the_file_that_is_shipped(folders: dict[str, Path], tmp_path: Path) -> None:
    """Not from the facts beside it: a template changed in tokenizer.mtok alone is noticed."""
    shipped = tmp_path / "tokenizer"
    shipped.mkdir()
    (shipped / "tokenizer.json").write_bytes((folders["tokenizer"] / "tokenizer.json").read_bytes())
    data = (folders["tokenizer"] / "tokenizer.mtok").read_bytes()
    (shipped / "tokenizer.mtok").write_bytes(data.replace(b"{{ 'go' }}", b"{{ 'GO' }}"))
    told = _told({**folders, "tokenizer": shipped}, tmp_path / "out")
    assert told["parity"]["encode_differences"] == 0 and told["parity"]["template_differences"] > 30


def test_a_crash_is_a_failed_check(folders: dict[str, Path], tmp_path: Path) -> None:
    broken = tmp_path / "tokenizer"
    broken.mkdir()
    (broken / "tokenizer.json").write_bytes((folders["tokenizer"] / "tokenizer.json").read_bytes())
    data = (folders["tokenizer"] / "tokenizer.mtok").read_bytes()
    (broken / "tokenizer.mtok").write_bytes(tiny.crashing(data, "!"))
    told = _told({**folders, "tokenizer": broken}, tmp_path / "out")
    assert told["parity"] is None and "crashed (signal" in told["crash"]
    (check,) = parity_checks(told, accept_limits=True)
    assert check.passed is False and check.reason == told["crash"]


def test_embedding_models_are_compared_without_prompts(folders: dict[str, Path], tmp_path: Path) -> None:
    assert _told(folders, tmp_path / "out", task="embedding")["parity"]["conversations"] == 0


def test_plain_template_on_request_is_listed_not_compared(tmp_path: Path) -> None:
    checkpoint = tiny.save(
        tiny.gpt2(), tmp_path / "in", CONFIG, "{% for m in messages %}{{ loop.index % 2 }}{% endfor %}"
    )
    (tmp_path / "tokenizer").mkdir()
    tokenizer.run({"target": {"plain_template": True}}, {"checkpoint": checkpoint}, tmp_path / "tokenizer", Notes())
    told = _told({"checkpoint": checkpoint, "tokenizer": tmp_path / "tokenizer"}, tmp_path / "out")
    texts, prompts = parity_checks(told, accept_limits=False)
    assert texts.passed is True and prompts.passed is None and "on request" in prompts.reason


def test_stage_runs_whenever_products_are_verified() -> None:
    assert parity.STAGE.applies({"verify": {"mode": "fast"}}) and not parity.STAGE.applies({"verify": {"mode": "off"}})

"""Answering a file: order, seeds, batches, resuming, failures."""

from __future__ import annotations

import json
import os
import signal
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from pipeline.mnn.runner import Engine
from pipeline.use.prompts import read_prompts
from pipeline.use.run import Runner, _parse, main

OPTIONS = ["--max-new-tokens", "5"]


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps({"prompt": text, "id": text}) + "\n" for text in ("Hi", "Ho", "Ha", "Hu")))
    return path


def _records(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def _answers(path: Path) -> list[tuple[int, str]]:
    return [(record["line"], record["answer"]) for record in _records(path.read_text())]


def test_answers_come_in_order_with_the_lines_own_fields(
    product: Path, prompts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(product), str(prompts), "--greedy", *OPTIONS]) == 0
    records = _records(capsys.readouterr().out)
    assert [record["id"] for record in records] == ["Hi", "Ho", "Ha", "Hu"]
    with Engine(product) as engine:
        ids = engine.tokenize(engine.apply_template([{"role": "user", "content": "Ho"}]))
        expected = engine.detokenize(engine.generate(ids, 5))
    assert records[1]["answer"] == expected
    assert records[1]["prompt_tokens"] == len(ids)


def test_text_in_text_out(product: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "p.txt").write_text("Hi\nHo\n")
    assert main([str(product), str(tmp_path / "p.txt"), "--greedy", *OPTIONS]) == 0
    assert capsys.readouterr().out.startswith("# Hi\n")


def test_a_seed_gives_the_same_answers_in_any_batch(product: Path, prompts: Path, tmp_path: Path) -> None:
    keys = ["--set", "mixed_samplers=[\"temperature\"]", "--set", "temperature=3.0", "--seed", "7", *OPTIONS]
    for name, batch in (("one", "1"), ("two", "2")):
        out = tmp_path / f"{name}.jsonl"
        assert main([str(product), str(prompts), "--out", str(out), "--batch", batch, *keys]) == 0
    assert _answers(tmp_path / "one.jsonl") == _answers(tmp_path / "two.jsonl")
    assert len({answer for _, answer in _answers(tmp_path / "one.jsonl")}) > 1


def test_it_goes_on_where_it_was_stopped(
    product: Path, prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.jsonl"
    arguments = [str(product), str(prompts), "--greedy", "--out", str(out), *OPTIONS]
    assert main(arguments) == 0
    whole = _answers(out)
    lines = out.read_text().splitlines(keepends=True)
    out.write_text(lines[0] + lines[1] + lines[2][:20])  # killed in the middle of a line
    assert main(arguments) == 0
    assert _answers(out) == whole
    assert "2 of 4 lines are answered already" in capsys.readouterr().err


def test_lines_that_failed_are_tried_again(product: Path, prompts: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    out.write_text(json.dumps({"line": 1, "prompt": "Hi", "error": "crashed"}) + "\n")
    assert main([str(product), str(prompts), "--greedy", "--out", str(out), *OPTIONS]) == 0
    assert sorted(line for line, _ in _answers(out)) == [1, 2, 3, 4]


def test_a_crash_costs_one_line(product: Path, prompts: Path) -> None:
    options = _parse([str(product), str(prompts), "--greedy", *OPTIONS])
    with ExitStack() as stack:
        runner = Runner(options, stack)
        first, second, *_ = read_prompts(prompts)
        session = runner._free.get()
        assert session.engine._process is not None
        os.kill(session.engine._process.pid, signal.SIGSEGV)
        runner._free.put(session)
        assert "killed by SIGSEGV" in runner.answer(first)["error"]
        assert runner.answer(second)["answer"]


def test_a_prompt_that_does_not_fit_is_an_error_of_its_line(
    product: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text(json.dumps({"prompt": "x" * 600}) + "\n" + json.dumps({"prompt": "y"}) + "\n")
    assert main([str(product), str(path), "--greedy", *OPTIONS]) == 1
    captured = capsys.readouterr()
    first, second = _records(captured.out)
    assert "knows 512 positions" in first["error"]
    assert second["answer"]
    assert "1 of 2 lines were not answered" in captured.err

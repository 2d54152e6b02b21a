"""Files of prompts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import UserError
from pipeline.use.prompts import check_messages, read_prompts


def _write(path: Path, *lines: Any) -> Path:
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines) + "\n")
    return path


def test_text_is_one_prompt_a_line_and_keeps_line_numbers(tmp_path: Path) -> None:
    prompts = read_prompts(_write(tmp_path / "p.txt", "one", "", "  ", "two é"))
    assert [(prompt.line, prompt.text) for prompt in prompts] == [(1, "one"), (4, "two é")]
    assert prompts[0].messages == ({"role": "user", "content": "one"},)


def test_json_lines_may_be_prompts_or_conversations(tmp_path: Path) -> None:
    talk = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    path = _write(tmp_path / "p.jsonl", {"prompt": "a", "id": 7}, {"messages": talk})
    first, second = read_prompts(path)
    assert (first.text, dict(first.extra)) == ("a", {"id": 7})
    assert list(second.messages) == talk


def test_a_system_message_goes_before_those_that_have_none(tmp_path: Path) -> None:
    talk = [{"role": "system", "content": "own"}, {"role": "user", "content": "u"}]
    path = _write(tmp_path / "p.jsonl", {"prompt": "a"}, {"messages": talk})
    first, second = read_prompts(path, "S")
    assert first.messages[0] == {"role": "system", "content": "S"}
    assert second.messages[0]["content"] == "own"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("{", "p.jsonl:2: not JSON"),
        ("[1]", "p.jsonl:2: a line needs either"),
        ('{"prompt": "a", "messages": []}', "p.jsonl:2: a line needs either"),
        ('{"text": "a"}', "p.jsonl:2: a line needs either"),
        ('{"prompt": 3}', "`prompt` must be text"),
        ('{"prompt": ""}', "`prompt` must be text"),
        ('{"messages": []}', "not empty"),
        ('{"messages": [{"role": "user"}]}', "every message needs"),
    ],
)
def test_wrong_lines_are_named(tmp_path: Path, line: str, expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        read_prompts(_write(tmp_path / "p.jsonl", {"prompt": "fine"}, line))


def test_files_that_hold_nothing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no prompt"):
        read_prompts(_write(tmp_path / "p.txt", "", " "))
    with pytest.raises(UserError, match="cannot be read"):
        read_prompts(tmp_path / "nowhere.txt")
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(UserError, match="not UTF-8"):
        read_prompts(tmp_path / "bytes.txt")


@pytest.mark.parametrize(
    "value", [None, [], {}, "x", [3], [{"role": "", "content": "a"}], [{"role": "user", "content": 1}]]
)
def test_messages_that_are_none(value: Any) -> None:
    with pytest.raises(UserError, match="here"):
        check_messages(value, "here")

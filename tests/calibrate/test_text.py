"""Calibration ids: seeded, of one length, disjoint from the text that quality is measured on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.calibrate.text import sequences
from pipeline.errors import UserError
from pipeline.verify.text import PARAGRAPH, calibration_text, evaluation_text


class Words:
    """A tokenizer whose ids are the code points; a chat is its contents."""

    chat_template: str | None = "yes"

    def __call__(self, text: str, add_special_tokens: bool) -> dict[str, list[int]]:
        return {"input_ids": [ord(letter) for letter in text]}

    def apply_chat_template(self, chat: list[dict[str, str]], tokenize: bool) -> str:
        return "".join(f"<{message['role']}>{message['content']}" for message in chat)


def settings(**changes: Any) -> dict[str, Any]:
    return {"text": "pydoc", "sequences": 3, "length": 50, "seed": 0, **changes}


def test_runs_of_one_length_from_the_calibration_text() -> None:
    runs = sequences(Words(), settings())
    assert [len(run) for run in runs] == [50, 50, 50]
    assert all("".join(map(chr, run)) in calibration_text() for run in runs)


def test_no_paragraph_is_shared_with_evaluation() -> None:
    assert not set(calibration_text().split(PARAGRAPH)) & set(evaluation_text().split(PARAGRAPH))


def test_the_seed_chooses() -> None:
    assert sequences(Words(), settings()) == sequences(Words(), settings())
    assert sequences(Words(), settings()) != sequences(Words(), settings(seed=1))


def test_a_file_and_conversations(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x" * 120)
    assert sequences(Words(), settings(text=str(tmp_path / "a.txt"), sequences=2)) == [[120] * 50] * 2
    chat = [{"role": "user", "content": "hello"}]
    (tmp_path / "a.jsonl").write_text(f"{json.dumps({'messages': chat})}\n\n{json.dumps(chat)}\n")
    (run,) = sequences(Words(), settings(text=str(tmp_path / "a.jsonl"), sequences=1, length=22))
    assert "".join(map(chr, run)) == "<user>hello<user>hello"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("short.txt", "x" * 120, r"has 120 tokens, .* asks for 3 × 50 → set quant.calibration.sequences=2"),
        ("empty.txt", "", r"has 0 tokens.* → give a longer text"),
        ("bad.jsonl", '{"messages": 3}', r"bad\.jsonl, line 1, is no conversation"),
        ("bad.json", "[1, 2]", r"bad\.json is no list of texts"),
        ("bad.json", "[", r"bad\.json is no JSON: "),
    ],
)
def test_unusable_texts_are_refused(name: str, content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=message):
        sequences(Words(), settings(text=str(tmp_path / name)))


def test_a_list_and_lines_of_texts(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(["a" * 30, "b" * 20]))
    assert sequences(Words(), settings(text=str(tmp_path / "a.json"), sequences=1)) == [[97] * 30 + [98] * 20]
    (tmp_path / "a.jsonl").write_text('{"text": "ccc"}\n{"text": "dd"}\n')
    assert sequences(Words(), settings(text=str(tmp_path / "a.jsonl"), sequences=1, length=5)) == [[99] * 3 + [100] * 2]


def test_a_file_that_is_no_text_and_a_template_that_refuses(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"abc\xff")
    with pytest.raises(UserError, match=r"a\.txt is no text: byte 3 is not UTF-8"):
        sequences(Words(), settings(text=str(tmp_path / "a.txt")))

    class Strict(Words):
        def apply_chat_template(self, chat: list[dict[str, str]], tokenize: bool) -> str:
            raise ValueError("roles must alternate")

    (tmp_path / "a.jsonl").write_text('[{"role": "user", "content": "x"}, {"role": "user", "content": "y"}]')
    with pytest.raises(UserError, match="refuses a conversation of user, user: roles must alternate"):
        sequences(Strict(), settings(text=str(tmp_path / "a.jsonl")))


def test_missing_file_and_missing_template(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no calibration text at 'nowhere'"):
        sequences(Words(), settings(text="nowhere"))
    (tmp_path / "a.jsonl").write_text('[{"role": "user", "content": "x"}]')
    tokenizer = Words()
    tokenizer.chat_template = None
    with pytest.raises(UserError, match="no chat template"):
        sequences(tokenizer, settings(text=str(tmp_path / "a.jsonl")))

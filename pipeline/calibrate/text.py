"""The token ids that calibration runs on: seeded, of equal length, never from the text that quality is measured on."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.errors import UserError

BUILT_IN = "pydoc"
Chat = list[dict[str, str]]


def sequences(tokenizer: Any, calibration: Mapping[str, Any]) -> list[list[int]]:
    """`calibration.sequences` runs of `length` token ids each.

    The text is cut into windows of `length` tokens, of which the seed chooses. tokenizer: transformers'; calibration:
    the recipe's section. Raises UserError for a text that is missing or too short.
    """
    count, length = int(calibration["sequences"]), int(calibration["length"])
    ids = _ids(tokenizer, str(calibration["text"]))
    starts = list(range(0, len(ids) - length + 1, length))
    if len(starts) < count:
        raise UserError(
            f"the calibration text has {len(ids)} tokens, quant.calibration asks for {count} × {length}",
            f"set quant.calibration.sequences={len(starts)}" if starts else "give a longer text",
        )
    chosen = random.Random(int(calibration["seed"])).sample(starts, count)
    return [ids[start : start + length] for start in chosen]


def _ids(tokenizer: Any, source: str) -> list[int]:
    from pipeline.verify.text import calibration_text

    if source == BUILT_IN:
        return _encoded(tokenizer, calibration_text())
    path = Path(source)
    if path.suffix == ".jsonl":
        return [token for one in _lines(path) for token in _encoded(tokenizer, _text(tokenizer, one))]
    if path.suffix == ".json":
        return [token for text in _list(path) for token in _encoded(tokenizer, text)]
    return _encoded(tokenizer, _read(path))


def _encoded(tokenizer: Any, text: str) -> list[int]:
    return [int(token) for token in tokenizer(text, add_special_tokens=False)["input_ids"]]


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        raise UserError(f"no calibration text at '{path}'", f"give a file, {BUILT_IN} or self") from None
    except UnicodeDecodeError as error:
        message = f"{path.name} is no text: byte {error.start} is not UTF-8"
        raise UserError(message, "give a text file in UTF-8") from None


def _list(path: Path) -> list[str]:
    """A JSON list of texts."""
    try:
        texts = json.loads(_read(path))
    except ValueError as error:
        raise UserError(f"{path.name} is no JSON: {error}", 'write ["text", "text"]') from None
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise UserError(f"{path.name} is no list of texts", 'write ["text", "text"]')
    return texts


def _lines(path: Path) -> list[str | Chat]:
    """A line is a conversation (a list of messages, an object with `messages`) or a text (an object with `text`)."""
    found: list[str | Chat] = []
    for number, line in enumerate(_read(path).splitlines(), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
            if isinstance(value, dict) and isinstance(value.get("text"), str):
                found.append(value["text"])
                continue
            messages = value["messages"] if isinstance(value, dict) else value
            found.append([{"role": str(m["role"]), "content": str(m["content"])} for m in messages])
        except (ValueError, KeyError, TypeError):
            raise UserError(
                f"{path.name}, line {number}, is no conversation", 'write {"messages": [{"role": …, "content": …}]}'
            ) from None
    return found


def _text(tokenizer: Any, one: str | Chat) -> str:
    return one if isinstance(one, str) else _rendered(tokenizer, one)


def _rendered(tokenizer: Any, chat: Chat) -> str:
    if not getattr(tokenizer, "chat_template", None):
        raise UserError("the model has no chat template for the calibration's conversations", "give plain text")
    try:
        return str(tokenizer.apply_chat_template(chat, tokenize=False))
    except Exception as error:  # a template may raise anything at all: roles that do not alternate, say
        roles = ", ".join(message["role"] for message in chat)
        message = f"the model's chat template refuses a conversation of {roles}: {error}"
        raise UserError(message, "mend the file") from None

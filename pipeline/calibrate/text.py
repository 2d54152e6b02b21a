"""The token ids that calibration runs on: seeded, of equal length, never from the text that quality is measured on."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.errors import UserError

BUILT_IN = "pydoc"


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
    if not path.is_file():
        raise UserError(f"no calibration text at '{source}'", f"give a file, or quant.calibration.text={BUILT_IN}")
    if path.suffix == ".jsonl":
        return [token for chat in _chats(path) for token in _encoded(tokenizer, _rendered(tokenizer, chat))]
    return _encoded(tokenizer, path.read_text(encoding="utf-8"))


def _encoded(tokenizer: Any, text: str) -> list[int]:
    return [int(token) for token in tokenizer(text, add_special_tokens=False)["input_ids"]]


def _chats(path: Path) -> list[list[dict[str, str]]]:
    """One conversation a line: a list of messages, or an object with `messages`."""
    chats = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
            messages = value["messages"] if isinstance(value, dict) else value
            chats.append([{"role": str(m["role"]), "content": str(m["content"])} for m in messages])
        except (ValueError, KeyError, TypeError):
            raise UserError(
                f"{path.name}, line {number}, is no conversation", 'write {"messages": [{"role": …, "content": …}]}'
            ) from None
    return chats


def _rendered(tokenizer: Any, chat: Sequence[Mapping[str, str]]) -> str:
    if not getattr(tokenizer, "chat_template", None):
        raise UserError("the model has no chat template for the calibration's conversations", "give plain text")
    return str(tokenizer.apply_chat_template(list(chat), tokenize=False))

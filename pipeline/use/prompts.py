"""A file of prompts: text, one a line, or JSON lines with `prompt` or `messages`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import UserError

Message = dict[str, str]


@dataclass(frozen=True)
class Prompt:
    """One prompt. line: its number in the file, from 1. extra: the line's other JSON fields, copied to the answer."""

    line: int
    messages: tuple[Message, ...]
    extra: Mapping[str, Any]

    @property
    def text(self) -> str:
        """The last message's content."""
        return self.messages[-1]["content"]


def read_prompts(path: Path, system: str = "") -> list[Prompt]:
    """Every non-empty line of the file; JSON lines if its name ends in .jsonl. Raises UserError that names the line."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}", "give a file of prompts") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8 text") from None
    is_json = path.suffix == ".jsonl"
    prompts = [
        _from_json(path, number, line) if is_json else Prompt(number, (_user(line),), {})
        for number, line in enumerate(lines, 1)
        if line.strip()
    ]
    if not prompts:
        raise UserError(f"{path} holds no prompt", "write one a line")
    return [_with_system(prompt, system) for prompt in prompts]


def _with_system(prompt: Prompt, system: str) -> Prompt:
    if not system or prompt.messages[0]["role"] == "system":
        return prompt
    return Prompt(prompt.line, ({"role": "system", "content": system}, *prompt.messages), prompt.extra)


def _user(text: str) -> Message:
    return {"role": "user", "content": text}


def _from_json(path: Path, number: int, line: str) -> Prompt:
    try:
        value = json.loads(line)
    except ValueError as error:
        raise UserError(f"{path}:{number}: not JSON: {error}") from None
    if not isinstance(value, dict) or ("prompt" in value) == ("messages" in value):
        raise UserError(f"{path}:{number}: a line needs either `prompt` or `messages`")
    extra = {key: entry for key, entry in value.items() if key not in ("prompt", "messages")}
    if "messages" in value:
        return Prompt(number, check_messages(value["messages"], f"{path}:{number}"), extra)
    if not isinstance(value["prompt"], str) or not value["prompt"]:
        raise UserError(f"{path}:{number}: `prompt` must be text")
    return Prompt(number, (_user(value["prompt"]),), extra)


def check_messages(value: Any, where: str) -> tuple[Message, ...]:
    """Messages as a chat template takes them: at least one, each with a role and a content of text."""
    if not isinstance(value, list) or not value:
        raise UserError(f"{where}: `messages` must be a list that is not empty")
    for message in value:
        fields = message if isinstance(message, dict) else {}
        if not all(isinstance(fields.get(key), str) for key in ("role", "content")) or not fields["role"]:
            raise UserError(f"{where}: every message needs `role` and `content`, both text")
    return tuple({"role": message["role"], "content": message["content"]} for message in value)

"""The normalised checkpoint folder, as far as a tokenizer is concerned: a Hugging Face folder without weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from pipeline.errors import StageFailed

Json = Mapping[str, Any]


@dataclass(frozen=True)
class TokenizerFolder:
    """Parsed JSON files (empty if absent) and the chat template's text (empty if the model has none)."""

    path: Path
    tokenizer_config: Json
    special_tokens_map: Json
    generation_config: Json
    config: Json
    chat_template: str

    @classmethod
    def open(cls, path: Path) -> TokenizerFolder:
        """Raises StageFailed naming a file that is not a JSON object."""
        tokenizer_config = read_json(path / "tokenizer_config.json")
        return cls(
            path=path,
            tokenizer_config=tokenizer_config,
            special_tokens_map=read_json(path / "special_tokens_map.json"),
            generation_config=read_json(path / "generation_config.json"),
            config=read_json(path / "config.json"),
            chat_template=_chat_template(path, tokenizer_config),
        )

    def token(self, role: str) -> str:
        """The text of a named token ("bos_token", "eos_token", …), or "" if the model has none."""
        for source in (self.tokenizer_config, self.special_tokens_map):
            value = source.get(role)
            if value:
                return str(value["content"] if isinstance(value, Mapping) else value)
        return ""


def read_json(path: Path) -> Json:
    """The JSON object in `path`, or {} if there is no such file. Raises StageFailed for damaged JSON."""
    if not path.exists():
        return {}
    try:
        document = orjson.loads(path.read_bytes())
    except orjson.JSONDecodeError as error:
        raise StageFailed(f"{path.name} is not valid JSON: {error}", "fetch the model again") from error
    if not isinstance(document, Mapping):
        raise StageFailed(f"{path.name} holds a {type(document).__name__}, expected a JSON object")
    return document


def _chat_template(path: Path, tokenizer_config: Json) -> str:
    """chat_template.jinja wins over tokenizer_config.json, as in transformers; of several the one named default."""
    file = path / "chat_template.jinja"
    if file.exists():
        return file.read_text(encoding="utf-8")
    template = tokenizer_config.get("chat_template") or ""
    if isinstance(template, str):
        return template
    named = {entry["name"]: str(entry["template"]) for entry in template}
    if "default" not in named:
        raise StageFailed(f"the chat templates are named {', '.join(sorted(named))}, and none of them is 'default'")
    return named["default"]

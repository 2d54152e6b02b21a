"""What Hugging Face says: the `tokenizers` library on tokenizer.json, transformers' renderer on the chat template.

tokenizer.json is the specification. transformers 5 rebuilds some tokenizers from their class's name instead
(LlamaTokenizer, GPT2Tokenizer, …), and then disagrees with the model's own file; AutoTokenizer is asked only for a
folder that has no tokenizer.json.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import StageFailed
from pipeline.tokenizer.folder import TokenizerFolder, read_json
from pipeline.tokenizer.parity.conversations import Conversation


@dataclass(frozen=True)
class Reference:
    """tokenizer: tokenizers.Tokenizer. merging: the same without ignore_merges, or None. names: special tokens."""

    tokenizer: Any
    merging: Any
    chat_template: str
    names: Mapping[str, str]

    @classmethod
    def open(cls, path: Path) -> Reference:
        """Raises StageFailed if Hugging Face cannot read the folder."""
        folder = TokenizerFolder.open(path)
        tokenizer = _tokenizer(path)
        roles = ("bos_token", "eos_token", "unk_token", "pad_token", "cls_token", "sep_token", "mask_token")
        names = {role: folder.token(role) for role in roles if folder.token(role)}
        return cls(tokenizer, _merging(tokenizer), folder.chat_template, names)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids without special tokens around."""
        return _ids(self.tokenizer, texts)

    def encode_merging(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids as a tokenizer gives them that always merges: what a known limit of the engine explains."""
        return _ids(self.merging or self.tokenizer, texts)

    def decode(self, sequences: Sequence[Sequence[int]]) -> list[str]:
        """Text with special tokens, as they are."""
        decoded: list[str] = self.tokenizer.decode_batch([list(ids) for ids in sequences], skip_special_tokens=False)
        return decoded

    def render(self, conversation: Conversation) -> str | None:
        """The prompt; None where the template refuses the conversation."""
        from jinja2 import TemplateError
        from transformers.utils.chat_template_utils import render_jinja_template

        variables = {**self.names, **conversation.variables}
        tools = variables.pop("tools", None)
        try:
            rendered: Any = render_jinja_template(
                conversations=[[dict(message) for message in conversation.messages]],
                tools=tools,
                chat_template=self.chat_template,
                add_generation_prompt=conversation.add_generation_prompt,
                **variables,
            )
        except (TemplateError, TypeError, ValueError, KeyError, AttributeError):
            return None
        return str(rendered[0][0])


def _ids(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    return [encoded.ids for encoded in tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]


def _tokenizer(path: Path) -> Any:
    from tokenizers import Tokenizer

    if (path / "tokenizer.json").exists():
        read_json(path / "tokenizer.json")
        return Tokenizer.from_file(str(path / "tokenizer.json"))
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(str(path), trust_remote_code=False).backend_tokenizer
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise StageFailed(f"transformers cannot read the tokenizer: {error}") from error


def _merging(tokenizer: Any) -> Any:
    """A copy without ignore_merges; None if the tokenizer merges anyway."""
    if not getattr(tokenizer.model, "ignore_merges", False):
        return None
    document = json.loads(tokenizer.to_str())
    document["model"]["ignore_merges"] = False
    return type(tokenizer).from_str(json.dumps(document))

"""What Hugging Face says: the `tokenizers` library on tokenizer.json, transformers' renderer on the chat template.

tokenizer.json is the specification. transformers 5 rebuilds some tokenizers from their class's name instead
(LlamaTokenizer, GPT2Tokenizer, …), and then disagrees with the model's own file; AutoTokenizer is asked only for a
folder that has no tokenizer.json.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import StageFailed
from pipeline.tokenizer.facts import Facts
from pipeline.tokenizer.folder import TokenizerFolder
from pipeline.tokenizer.parity.conversations import Conversation
from pipeline.tokenizer.parity.limited import limited, sentencepiece_piece


@dataclass(frozen=True)
class Reference:
    """tokenizer: tokenizers.Tokenizer. names: special tokens by role."""

    tokenizer: Any
    chat_template: str
    names: Mapping[str, str]

    @classmethod
    def open(cls, path: Path) -> Reference:
        """Raises StageFailed if Hugging Face cannot read the folder."""
        folder = TokenizerFolder.open(path)
        tokenizer = _tokenizer(path)
        roles = ("bos_token", "eos_token", "unk_token", "pad_token", "cls_token", "sep_token", "mask_token")
        names = {role: folder.token(role) for role in roles if folder.token(role)}
        return cls(tokenizer, folder.chat_template, names)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids without special tokens around."""
        return _ids(self.tokenizer, texts)

    def encode_limited(self, texts: Sequence[str], facts: Facts) -> list[list[int]]:
        """Token ids with the limits of the product's file format: what they explain of a difference."""
        return _ids(limited(self.tokenizer, facts), texts)

    def stream_limited(self, sequences: Sequence[Sequence[int]], facts: Facts) -> list[str]:
        """Text of ids as tokenizer.txt's SentencePiece streams it; other formats have no limit there."""
        if facts.file != "tokenizer.txt" or facts.byte_level:
            return self.decode(sequences)
        pieces = [[sentencepiece_piece(self.tokenizer.id_to_token(index)) for index in ids] for ids in sequences]
        return [b"".join(parts).decode("utf-8", "replace") for parts in pieces]

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
    """Without the length that a file may cut and pad texts to: that is about batches, and no tokenizer's affair."""
    tokenizer = _read(path)
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def _read(path: Path) -> Any:
    from tokenizers import Tokenizer

    if (path / "tokenizer.json").exists():
        try:
            return Tokenizer.from_file(str(path / "tokenizer.json"))
        except Exception as error:  # the library has no narrower one
            raise StageFailed(f"the tokenizers library cannot read tokenizer.json: {error}") from error
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(str(path), trust_remote_code=False).backend_tokenizer
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise StageFailed(f"transformers cannot read the tokenizer: {error}") from error

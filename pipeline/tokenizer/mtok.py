"""tokenizer.mtok: the tokenizer file of engines from 3.5.0. docs/tokenizers.md has the layout byte by byte."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.tokenizer.binary import string, u8, u32
from pipeline.tokenizer.blanks import cut_at_blanks
from pipeline.tokenizer.decoder import encode_decoder
from pipeline.tokenizer.definition import AddedToken, Definition, unsupported
from pipeline.tokenizer.model import encode_model
from pipeline.tokenizer.normalizer import encode_normalizer
from pipeline.tokenizer.pretokenizer import encode_pre_tokenizer

MAGIC, PIPELINE = 430, 4


@dataclass(frozen=True)
class Extras:
    """What the engine's tokenizer file says beside the tokenizer proper.

    stop: ids that end generation. prefix: ids put before every encoded text. chat_template, bos, eos: what the
    template engine sees (bos and eos as text).
    """

    stop: Sequence[int] = ()
    prefix: Sequence[int] = ()
    chat_template: str = ""
    bos: str = ""
    eos: str = ""
    clean_up_spaces: bool = False


def header(kind: int, stop: Sequence[int], prefix: Sequence[int]) -> bytes:
    """The three text lines that all formats share.

    No id is listed as special: the engine would match those texts before, and less exactly than, the added tokens
    (in list order instead of longest first, without lstrip and rstrip).
    """
    ids = " ".join(str(index) for index in [*stop, *prefix])
    return f"{MAGIC} {kind}\n0 {len(stop)} {len(prefix)}\n{ids}\n".encode()


def encode_mtok(definition: Definition, extras: Extras) -> bytes:
    """The whole file. Raises StageFailed naming what the format cannot say."""
    definition = cut_at_blanks(definition)
    parts = [
        header(PIPELINE, extras.stop, extras.prefix),
        encode_normalizer(definition.normalizer, definition.pre_tokenizer),
        encode_pre_tokenizer(definition.pre_tokenizer),
        encode_model(definition),
        encode_decoder(definition.decoder),
        _added_tokens(definition.added_tokens),
        _trailer(extras),
    ]
    return b"".join(parts)


def _added_tokens(tokens: Sequence[AddedToken]) -> bytes:
    return u32(len(tokens)) + b"".join(_added_token(token) for token in tokens)


def _added_token(token: AddedToken) -> bytes:
    if token.single_word:
        raise unsupported(f"added token that matches whole words only ({token.content!r}, single_word)")
    flags = u8(token.special) + u8(token.lstrip) + u8(token.rstrip)
    return u32(token.id) + flags + string(token.content)


def _trailer(extras: Extras) -> bytes:
    template = extras.chat_template.encode("utf-8")
    return b"".join([u32(len(template)), template, string(extras.eos), u8(extras.clean_up_spaces), string(extras.bos)])

"""From a checkpoint folder to the engine's tokenizer file and the facts about it."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from pipeline.errors import StageFailed, UserError
from pipeline.tokenizer.definition import Definition
from pipeline.tokenizer.facts import Facts, read_facts
from pipeline.tokenizer.folder import TokenizerFolder
from pipeline.tokenizer.limits import known_limits
from pipeline.tokenizer.merging import unreached_words
from pipeline.tokenizer.mtok import Extras, encode_mtok
from pipeline.tokenizer.read import load_definition
from pipeline.tokenizer.specials import stop_ids, token_ids, wrapping_ids
from pipeline.tokenizer.template import EngineTemplate, for_engine
from pipeline.tokenizer.txt import encode_txt
from pipeline.tokenizer.whole_words import keep_whole, sayable

FILES = {"mtok": "tokenizer.mtok", "txt": "tokenizer.txt"}
PLAIN_TEMPLATE = "{% for message in messages %}{{ message.content }}{% endfor %}"
NAMED_TOKENS = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
FALLBACK_HINT = "set target.plain_template=true to ship a plain template instead"

__all__ = ["Facts", "build", "read_facts", "write"]


def write(
    folder: TokenizerFolder, out: Path, form: str = "mtok", plain_template: bool = False, *, embeds: bool = False
) -> Facts:
    """Writes the tokenizer file and tokenizer.json into `out`. Raises StageFailed naming what cannot be said."""
    with _no_collection():
        data, facts = build(folder, form, plain_template, embeds=embeds)
    (out / facts.file).write_bytes(data)
    (out / "tokenizer.json").write_text(facts.json(), encoding="utf-8")
    return facts


@contextmanager
def _no_collection() -> Iterator[None]:
    """Half a million merges are that many small lists without a cycle: looking for one takes longer than reading."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def build(
    folder: TokenizerFolder, form: str = "mtok", plain_template: bool = False, *, embeds: bool = False
) -> tuple[bytes, Facts]:
    """The tokenizer file's bytes and the facts.

    form: "mtok" (engines from 3.5.0) or "txt" (older). plain_template: where the engine cannot run the model's chat
    template, ship one that only joins the contents. embeds: for an embedding model, whose template is not the chat's
    but puts the tokens around a text that the tokenizer's post-processor puts there. Raises UserError for another form,
    StageFailed naming what the format or the engine's Jinja cannot say.
    """
    if form not in FILES:
        raise UserError(f"target.tokenizer_format={form} is not known", f"use {' or '.join(FILES)}")
    definition = load_definition(folder)
    ids = token_ids(definition)
    template, fallbacks = (_wrapping(definition, ids), []) if embeds else _template(folder, plain_template)
    stops = stop_ids(folder, ids)
    extras = Extras(
        stop=sorted(stops),
        prefix=[] if embeds else _prefix(folder, definition),
        chat_template=template.text,
        bos=folder.token("bos_token"),
        eos=folder.token("eos_token"),
    )
    facts = _facts(definition, extras, stops, ids)
    unreached = unreached_words(definition)
    facts = replace(
        facts,
        file=FILES[form],
        rewrites=list(template.rewrites),
        fallbacks=fallbacks,
        limits=known_limits(definition, form, unreached),
    )
    if form == "txt":
        return encode_txt(definition, extras), facts
    return encode_mtok(keep_whole(definition, sayable(definition, unreached)), extras), facts


def _facts(definition: Definition, extras: Extras, stops: Mapping[int, list[str]], ids: Mapping[str, int]) -> Facts:
    return Facts(
        kind=definition.kind,
        byte_level=definition.byte_level,
        file="",
        vocab_size=max(ids.values()) + 1,
        bos_token=extras.bos,
        eos_token=extras.eos,
        stop_ids=list(extras.stop),
        stop_sources={str(index): stops[index] for index in sorted(stops)},
        prefix=list(extras.prefix),
        special_ids={token.content: token.id for token in definition.added_tokens if token.special},
        chat_template=extras.chat_template,
    )


def _template(folder: TokenizerFolder, plain_template: bool) -> tuple[EngineTemplate, list[str]]:
    if not folder.chat_template:
        return EngineTemplate(""), []
    constants = {name: folder.token(name) for name in NAMED_TOKENS if folder.token(name)}
    try:
        return for_engine(folder.chat_template, constants), []
    except StageFailed as error:
        if not plain_template:
            raise StageFailed(str(error), FALLBACK_HINT) from error
        return EngineTemplate(PLAIN_TEMPLATE), [f"plain chat template, on request: {error}"]


def _wrapping(definition: Definition, ids: Mapping[str, int]) -> EngineTemplate:
    """The engine can put ids before a text but not behind it: both as text, which it finds again as special tokens."""
    texts = {index: text for text, index in ids.items()}
    before, after = ("".join(texts[index] for index in side) for side in wrapping_ids(definition))
    if any(sign in before + after for sign in ("{{", "{%", "{#")):
        raise StageFailed(f"tokenizer: the tokens {before} and {after} cannot be written into a template")
    return EngineTemplate(before + PLAIN_TEMPLATE + after)


def _prefix(folder: TokenizerFolder, definition: Definition) -> Sequence[int]:
    """Ids before every text. None with a chat template: its text is encoded as it is, and says bos itself."""
    prefix, suffix = wrapping_ids(definition)
    if folder.chat_template:
        return []
    if suffix:
        raise StageFailed(f"tokenizer: the engine cannot put ids {suffix} after a text, as this model's tokenizer does")
    return prefix

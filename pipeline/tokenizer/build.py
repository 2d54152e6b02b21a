"""From a checkpoint folder to the engine's tokenizer file and the facts about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from pipeline.errors import StageFailed, UserError
from pipeline.tokenizer.definition import Definition
from pipeline.tokenizer.facts import Facts, read_facts
from pipeline.tokenizer.folder import TokenizerFolder
from pipeline.tokenizer.limits import known_limits
from pipeline.tokenizer.mtok import Extras, encode_mtok
from pipeline.tokenizer.read import load_definition
from pipeline.tokenizer.specials import stop_ids, token_ids, wrapping_ids
from pipeline.tokenizer.template import EngineTemplate, for_engine
from pipeline.tokenizer.txt import encode_txt

FILES = {"mtok": "tokenizer.mtok", "txt": "tokenizer.txt"}
PLAIN_TEMPLATE = "{% for message in messages %}{{ message.content }}{% endfor %}"
NAMED_TOKENS = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
FALLBACK_HINT = "set target.plain_template=true to ship a plain template instead"

__all__ = ["Facts", "build", "read_facts", "write"]


def write(folder: TokenizerFolder, out: Path, form: str = "mtok", plain_template: bool = False) -> Facts:
    """Writes the tokenizer file and tokenizer.json into `out`. Raises StageFailed naming what cannot be said."""
    data, facts = build(folder, form, plain_template)
    (out / facts.file).write_bytes(data)
    (out / "tokenizer.json").write_text(facts.json(), encoding="utf-8")
    return facts


def build(folder: TokenizerFolder, form: str = "mtok", plain_template: bool = False) -> tuple[bytes, Facts]:
    """The tokenizer file's bytes and the facts.

    form: "mtok" (engines from 3.5.0) or "txt" (older). plain_template: where the engine cannot run the model's chat
    template, ship one that only joins the contents. Raises UserError for another form, StageFailed naming what the
    format or the engine's Jinja cannot say.
    """
    if form not in FILES:
        raise UserError(f"target.tokenizer_format={form} is not known", f"use {' or '.join(FILES)}")
    definition = load_definition(folder)
    template, fallbacks = _template(folder, plain_template)
    ids = token_ids(definition)
    stops = stop_ids(folder, ids)
    extras = Extras(
        stop=sorted(stops),
        prefix=_prefix(folder, definition),
        chat_template=template.text,
        bos=folder.token("bos_token"),
        eos=folder.token("eos_token"),
    )
    facts = _facts(definition, extras, stops, ids)
    facts = replace(
        facts,
        file=FILES[form],
        rewrites=list(template.rewrites),
        fallbacks=fallbacks,
        limits=known_limits(definition, form),
    )
    return (encode_mtok if form == "mtok" else encode_txt)(definition, extras), facts


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


def _prefix(folder: TokenizerFolder, definition: Definition) -> Sequence[int]:
    """Ids before every text. None with a chat template: its text is encoded as it is, and says bos itself."""
    prefix, suffix = wrapping_ids(definition)
    if folder.chat_template:
        return []
    if suffix:
        raise StageFailed(f"tokenizer: the engine cannot put ids {suffix} after a text, as this model's tokenizer does")
    return prefix

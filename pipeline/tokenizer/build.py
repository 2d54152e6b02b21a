"""From a checkpoint folder to the engine's tokenizer file and the facts about it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

from pipeline.errors import StageFailed
from pipeline.tokenizer.definition import Definition
from pipeline.tokenizer.folder import TokenizerFolder, read_json
from pipeline.tokenizer.mtok import Extras, encode_mtok
from pipeline.tokenizer.specials import stop_ids, token_ids, wrapping_ids


@dataclass(frozen=True)
class Facts:
    """What tokenizer.json of the product tells the other stages and people.

    stop_sources: stop id (as text, for JSON) → where it was found. prefix: ids put before every encoded text.
    chat_template: exactly as the engine gets it. rewrites: what was changed in it, one line each. limits: known
    differences from Hugging Face, one line each.
    """

    kind: str
    file: str
    vocab_size: int
    bos_token: str
    eos_token: str
    stop_ids: list[int]
    stop_sources: dict[str, list[str]]
    prefix: list[int]
    special_ids: dict[str, int]
    chat_template: str
    rewrites: list[str] = field(default_factory=list)
    fallbacks: list[str] = field(default_factory=list)
    limits: list[str] = field(default_factory=list)

    def json(self) -> str:
        """Stable text of the facts."""
        return json.dumps(asdict(self), ensure_ascii=False, indent=1, sort_keys=True) + "\n"


def build(folder: TokenizerFolder) -> tuple[bytes, Facts]:
    """The mtok file's bytes and the facts. Raises StageFailed naming what the format cannot say."""
    definition = load_definition(folder)
    ids = token_ids(definition)
    stops = stop_ids(folder, ids)
    prefix = _prefix(folder, definition)
    bos, eos = folder.token("bos_token"), folder.token("eos_token")
    extras = Extras(stop=sorted(stops), prefix=prefix, chat_template=folder.chat_template, bos=bos, eos=eos)
    facts = Facts(
        kind=definition.kind, file="tokenizer.mtok", vocab_size=max(ids.values()) + 1, bos_token=bos, eos_token=eos,
        stop_ids=sorted(stops), stop_sources={str(index): stops[index] for index in sorted(stops)},
        prefix=list(prefix), chat_template=folder.chat_template,
        special_ids={token.content: token.id for token in definition.added_tokens if token.special},
    )
    return encode_mtok(definition, extras), facts


def load_definition(folder: TokenizerFolder) -> Definition:
    """The tokenizer that the folder holds. Raises StageFailed if there is none."""
    document = read_json(folder.path / "tokenizer.json")
    if not document:
        raise StageFailed("the model has no tokenizer.json")
    return Definition.of(document)


def _prefix(folder: TokenizerFolder, definition: Definition) -> Sequence[int]:
    """Ids before every text: none if the template writes them itself (they would come twice)."""
    prefix, suffix = wrapping_ids(definition)
    if folder.chat_template:
        return []
    if suffix:
        raise StageFailed(f"tokenizer: the engine cannot put ids {suffix} after a text, as this model's tokenizer does")
    return prefix

"""Which ids end a generation, and which id begins a text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.errors import StageFailed
from pipeline.tokenizer.definition import Component, Definition, walk
from pipeline.tokenizer.folder import TokenizerFolder


def stop_ids(folder: TokenizerFolder, ids: Mapping[str, int]) -> dict[int, list[str]]:
    """Stop id → the places that name it, in the order of the places. `ids`: token text → id.

    Hugging Face stops at generation_config's ids; tokenizer_config and config are added, since many checkpoints have
    no generation_config. Raises StageFailed for an eos token that is not in the vocabulary.
    """
    found: dict[int, list[str]] = {}
    for source, value in _eos_values(folder):
        for entry in value if isinstance(value, list) else [value]:
            found.setdefault(_id_of(entry, source, ids), []).append(source)
    return found


def _eos_values(folder: TokenizerFolder) -> list[tuple[str, Any]]:
    text_config = folder.config.get("text_config") or {}
    values = [
        ("generation_config.json", folder.generation_config.get("eos_token_id")),
        ("config.json", folder.config.get("eos_token_id")),
        ("config.json", text_config.get("eos_token_id")),
        ("tokenizer_config.json", folder.token("eos_token") or None),
    ]
    return [(source, value) for source, value in values if value is not None]


def _id_of(value: object, source: str, ids: Mapping[str, int]) -> int:
    if isinstance(value, int):
        return value
    if str(value) not in ids:
        raise StageFailed(f"{source} names the end-of-text token {value!r}, which the vocabulary does not have")
    return ids[str(value)]


def token_ids(definition: Definition) -> dict[str, int]:
    """Text → id of the vocabulary and the added tokens together."""
    return {**definition.vocabulary(), **{token.content: token.id for token in definition.added_tokens}}


def wrapping_ids(definition: Definition) -> tuple[list[int], list[int]]:
    """Ids that the post-processor puts before and after a text: (prefix, suffix)."""
    prefix: list[int] = []
    suffix: list[int] = []
    for component in walk(definition.post_processor):
        before, after = _wrap(component)
        prefix, suffix = before + prefix, suffix + after
    return prefix, suffix


def _wrap(component: Component) -> tuple[list[int], list[int]]:
    if component["type"] in ("BertProcessing", "RobertaProcessing"):
        return [component["cls"][1]], [component["sep"][1]]
    if component["type"] != "TemplateProcessing":
        return [], []
    sides: tuple[list[int], list[int]] = ([], [])
    after = False
    for item in component["single"]:
        if "Sequence" in item:
            after = True
        else:
            sides[after].extend(component["special_tokens"][item["SpecialToken"]["id"]]["ids"])
    return sides

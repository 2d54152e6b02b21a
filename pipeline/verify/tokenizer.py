"""The gate's questions about tokenizer and chat template, answered by what the `parity` stage has measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.verify.gate import Check, not_run

TEXTS, PROMPTS = "tokenizer parity: ids and text", "chat template parity"
ACCEPTED = "accepted by target.accept_tokenizer_limits=true: "
HINT = "; target.accept_tokenizer_limits=true ships it with that limit on record"


def parity_checks(told: Mapping[str, Any], accept_limits: bool) -> list[Check]:
    """told: parity.json. A crash of the engine fails; a difference that a known limit explains can be accepted."""
    parity = told["parity"]
    if parity is None:
        return [Check(TEXTS, "the engine ended", "equal", False, told["crash"])]
    return [_texts(parity, told["limits"], accept_limits), _prompts(parity, told["fallbacks"])]


def _texts(parity: Mapping[str, Any], limits: list[str], accept_limits: bool) -> Check:
    unknown = parity["encode_differences"] + parity["decode_differences"]
    known = parity["explained"] + parity["decode_explained"]
    if not unknown and not known:
        return Check(TEXTS, f"{parity['texts']:,} texts equal", "equal", True)
    value = f"{unknown + known} of {2 * parity['texts']:,} differ" + (f", {known} by a known limit" if known else "")
    example = next((_shown(entry) for entry in parity["examples"] if entry["what"] != "template"), "")
    if unknown:
        return Check(TEXTS, value, "equal", False, example)
    reason = f"{example}; {'; '.join(limits)}"
    return Check(TEXTS, value, "equal", accept_limits, ACCEPTED + reason if accept_limits else reason + HINT)


def _prompts(parity: Mapping[str, Any], fallbacks: list[str]) -> Check:
    compared = parity["conversations"] - parity["refused"]
    if fallbacks:
        return not_run(PROMPTS, "; ".join(fallbacks))
    if not compared:
        return not_run(PROMPTS, "the model has no chat template")
    if parity["template_differences"]:
        example = next(_shown(entry) for entry in parity["examples"] if entry["what"] == "template")
        return Check(PROMPTS, f"{parity['template_differences']} of {compared} prompts differ", "equal", False, example)
    return Check(PROMPTS, f"{compared} prompts equal", "equal", True)


def _shown(example: Mapping[str, str]) -> str:
    return f"{example['what']} of {example['example']}: Hugging Face {example['expected']}, engine {example['actual']}"

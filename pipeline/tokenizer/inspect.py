"""What a person sees of a product's tokenizer: its facts, and a text's tokens beside Hugging Face's."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import nullcontext
from itertools import zip_longest
from pathlib import Path

from pipeline.errors import UserError
from pipeline.tokenizer.engine import EngineTokenizer
from pipeline.tokenizer.facts import Facts, read_facts
from pipeline.tokenizer.stored import stored_checkpoint

SHOWN_SPECIALS = 12
COLUMN = 28


def describe(product: Path) -> list[str]:
    """Lines for `inspect`: kind, vocabulary, special tokens, stop ids and their sources, limits, template, rewrites."""
    facts = read_facts(product)
    alphabet = "byte-level " if facts.byte_level else ""
    lines = [
        f"tokenizer   {alphabet}{facts.kind} in {facts.file}, {facts.vocab_size:,} ids",
        f"specials    {_specials(facts)}",
        f"stops at    {_stops(facts)}",
        f"begins with {' '.join(map(str, facts.prefix)) or 'nothing of its own'}",
    ]
    lines += [f"limit       {line}" for line in facts.limits]
    lines.append(f"template    {_template(facts)}")
    lines += [f"  rewritten: {line}" for line in facts.rewrites]
    lines += [f"  fallback: {line}" for line in facts.fallbacks]
    return lines + [f"  | {line}" for line in facts.chat_template.splitlines()]


def side_by_side(product: Path, text: str, checkpoint: Path | None = None) -> list[str]:
    """A line per token: the engine's id and piece, and Hugging Face's where `checkpoint` (its folder) is given.

    Lines that differ are marked with `!`. Raises StageFailed when the engine crashes, UserError for a text with NUL.
    """
    if "\0" in text:
        raise UserError("the engine's binding ends a text at U+0000", "leave it out")
    facts = read_facts(product)
    engine = EngineTokenizer(product / facts.file)
    ids = engine.encode([text])[0]
    ours = [f"{index:>7} {_piece(piece)}" for index, piece in zip(ids, engine.decode([[i] for i in ids]), strict=True)]
    if checkpoint is None:
        return ours
    from pipeline.tokenizer.parity.reference import Reference

    reference = Reference.open(checkpoint)
    wanted = [*facts.prefix, *reference.encode([text])[0]]
    pieces = [reference.tokenizer.id_to_token(index) for index in wanted]
    theirs = [f"{index:>7} {piece}" for index, piece in zip(wanted, pieces, strict=True)]
    rows = zip_longest(zip_longest(ids, wanted), ours, theirs, fillvalue="")
    return [f"{'!' if len(set(pair)) > 1 else ' '} {left:<{COLUMN}} {right}" for pair, left, right in rows]


def main(arguments: Sequence[str]) -> int:
    """`python -m pipeline tokens PRODUCT TEXT [--checkpoint FOLDER] [--store FOLDER]`."""
    parser = argparse.ArgumentParser(
        prog="python -m pipeline tokens", description="A text's tokens, engine and Hugging Face."
    )
    parser.add_argument("product", type=Path, help="the product's folder")
    parser.add_argument("text")
    parser.add_argument("--checkpoint", type=Path, help="the model's Hugging Face folder, if the store has it no more")
    parser.add_argument("--store", type=Path, help="the store, if it is not .cache beside the product")
    asked = parser.parse_args(list(arguments))
    for folder in (asked.product, asked.checkpoint, asked.store):
        if folder is not None and not folder.is_dir():
            raise UserError(f"{folder} is not a folder", "give the path of a product under artifacts/")
    with nullcontext(asked.checkpoint) if asked.checkpoint else stored_checkpoint(asked.product, asked.store) as found:
        if found is not None:
            print(f"  {'engine':<{COLUMN}} Hugging Face")
        print("\n".join(side_by_side(asked.product, asked.text, found)))
        if found is None:
            print("(the store has this product's checkpoint no more: --checkpoint FOLDER shows Hugging Face's tokens)")
    return 0


def _piece(data: bytes) -> str:
    return repr(data.decode("utf-8")) if _is_text(data) else f"bytes {data.hex(' ')}"


def _is_text(data: bytes) -> bool:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _specials(facts: Facts) -> str:
    shown = [f"{text} {index}" for text, index in sorted(facts.special_ids.items(), key=lambda item: item[1])]
    more = f", and {len(shown) - SHOWN_SPECIALS} more" if len(shown) > SHOWN_SPECIALS else ""
    return ", ".join(shown[:SHOWN_SPECIALS]) + more if shown else "none"


def _stops(facts: Facts) -> str:
    return ", ".join(f"{index} ({', '.join(sources)})" for index, sources in facts.stop_sources.items()) or "no id"


def _template(facts: Facts) -> str:
    if not facts.chat_template:
        return "none: messages are joined"
    origin = (
        "rewritten for the engine" if facts.rewrites else "plain, on request" if facts.fallbacks else "the model's own"
    )
    return f"{origin}, {len(facts.chat_template):,} characters"

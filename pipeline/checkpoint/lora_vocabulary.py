"""Adapters that come with a tokenizer of their own: more tokens than the base's would be wrong in the product."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.checkpoint.files import read_json
from pipeline.errors import StageFailed


def refuse_new_tokens(adapter: Path, base: Path, name: str) -> None:
    """Raises StageFailed if the adapter's folder holds tokens that the base's tokenizer.json has not, or has elsewhere.

    adapter: an adapter's files. base: the model's files without weights. A base without tokenizer.json (SentencePiece
    alone) is not compared; an adapter whose weights have other rows is refused where they are read.
    """
    path = base / "tokenizer.json"
    if not path.is_file():
        return
    known = _tokens(read_json(path))
    theirs: dict[str, int] = {}
    if (adapter / "tokenizer.json").is_file():
        theirs |= _tokens(read_json(adapter / "tokenizer.json"))
    if (adapter / "added_tokens.json").is_file():
        theirs |= {str(token): int(number) for token, number in read_json(adapter / "added_tokens.json").items()}
    new = sorted((number, token) for token, number in theirs.items() if known.get(token) != number)
    if new:
        shown = ", ".join(token for _, token in new[:3])
        raise StageFailed(
            f"{name} changes the vocabulary: its tokenizer has {len(new)} tokens that the model's has not ({shown})",
            "merge it with PEFT, save its tokenizer beside it, and export that folder",
        )


def _tokens(tokenizer: Mapping[str, Any]) -> dict[str, int]:
    """Token → number, of the model's vocabulary and the added ones."""
    vocabulary = (tokenizer.get("model") or {}).get("vocab") or {}
    if isinstance(vocabulary, list):  # Unigram: [token, score] in order
        vocabulary = {str(entry[0]): number for number, entry in enumerate(vocabulary)}
    added = {str(entry["content"]): int(entry["id"]) for entry in tokenizer.get("added_tokens") or []}
    return {**{str(token): int(number) for token, number in vocabulary.items()}, **added}

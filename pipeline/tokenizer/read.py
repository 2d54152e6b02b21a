"""Finds the tokenizer in a checkpoint folder, whatever files say it, and describes it as tokenizer.json would."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.errors import StageFailed
from pipeline.tokenizer import sentencepiece, tiktoken
from pipeline.tokenizer.definition import Definition
from pipeline.tokenizer.folder import TokenizerFolder, read_json


def load_definition(folder: TokenizerFolder) -> Definition:
    """tokenizer.json, else tokenizer.model, vocab.json + merges.txt, *.tiktoken or vocab.txt.

    Raises StageFailed if there is none of them, or if one is damaged.
    """
    path = folder.path
    document = read_json(path / "tokenizer.json")
    if document:
        return Definition.of(document)
    if (path / "tokenizer.model").exists():
        return _with_named_tokens(folder, _from_model(path / "tokenizer.model", folder))
    if (path / "vocab.json").exists() and (path / "merges.txt").exists():
        return _with_named_tokens(folder, _from_vocab_and_merges(path))
    for file in sorted(path.glob("*.tiktoken")):
        return Definition.of(tiktoken.describe(_ranks(file), _named_tokens(folder)))
    raise StageFailed(
        "the model has no tokenizer.json, tokenizer.model, vocab.json with merges.txt, or *.tiktoken",
        "add the tokenizer's files to the model's folder",
    )


def _ranks(file: Path) -> dict[bytes, int]:
    return tiktoken.read_ranks(file.read_text(encoding="utf-8", errors="replace"))


def _from_model(file: Path, folder: TokenizerFolder) -> Mapping[str, Any]:
    """tokenizer.model is SentencePiece's, or (Llama 3's original release) a tiktoken vocabulary."""
    data = file.read_bytes()
    if data[:1] == b"\x0a":
        return sentencepiece.describe(sentencepiece.parse(data))
    return tiktoken.describe(_ranks(file), _named_tokens(folder))


def _from_vocab_and_merges(path: Path) -> Mapping[str, Any]:
    """GPT-2's two files: byte-level BPE with GPT-2's words."""
    lines = (path / "merges.txt").read_text(encoding="utf-8").split("\n")
    merges = [line.split(" ") for line in lines if line and not line.startswith("#version")]
    vocab = json.loads((path / "vocab.json").read_text(encoding="utf-8"))
    return {
        "added_tokens": [],
        "normalizer": None,
        "post_processor": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True},
        "decoder": {"type": "ByteLevel"},
        "model": {"type": "BPE", "vocab": vocab, "merges": merges},
    }


def _named_tokens(folder: TokenizerFolder) -> dict[str, int]:
    """Text → id of the added tokens that tokenizer_config.json lists."""
    listed = folder.tokenizer_config.get("added_tokens_decoder") or {}
    return {str(entry["content"]): int(index) for index, entry in listed.items()}


def _with_named_tokens(folder: TokenizerFolder, document: Mapping[str, Any]) -> Definition:
    listed = folder.tokenizer_config.get("added_tokens_decoder") or {}
    added = {entry["id"]: entry for entry in document["added_tokens"]}
    added |= {int(index): {**entry, "id": int(index)} for index, entry in listed.items()}
    vocab = document["model"]["vocab"]
    for role in ("bos_token", "eos_token", "unk_token", "pad_token"):
        text = folder.token(role)
        if isinstance(vocab, dict) and text in vocab:
            added.setdefault(vocab[text], {"id": vocab[text], "content": text, "special": True})
    return Definition.of({**document, "added_tokens": list(added.values())})

"""Hugging Face's tokenizer with the known limits of the product's file put into it.

A difference between engine and Hugging Face that this tokenizer shares is understood: it comes from the limit, and
from nothing else.
"""

from __future__ import annotations

import json
import re
from typing import Any

from pipeline.tokenizer.bytelevel import CHAR_TO_BYTE
from pipeline.tokenizer.facts import Facts

# The one regex of byte-level tokenizer.txt, over bytes: what is not ASCII is neither letter, digit nor blank to it.
TXT_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\nA-Za-z0-9\x{80}-\x{10FFFF}]?[A-Za-z]+|[0-9]"
    r"| ?[^ \t\n\x0B\f\rA-Za-z0-9]+[\r\n]*|[ \t\n\x0B\f\r]*[\r\n]+"
    r"|[ \t\n\x0B\f\r]+(?![^ \t\n\x0B\f\r])|[ \t\n\x0B\f\r]+"
)
CLEANED = r"(?![\t\n\r])[\p{Cc}\p{Cf}\x{FFFD}]"
SPACE = "▁".encode()
BYTE_PIECE = re.compile("<0x[0-9A-F]{2}>")


def limited(tokenizer: Any, facts: Facts) -> Any:
    """A copy (tokenizers.Tokenizer) that always merges, keeps private characters and has tokenizer.txt's words."""
    document = json.loads(tokenizer.to_str())
    if document["model"].get("ignore_merges"):
        document["model"]["ignore_merges"] = False
    if facts.kind == "WordPiece":
        document["normalizer"] = _keeping_private(document["normalizer"])
    if facts.file == "tokenizer.txt" and facts.byte_level:
        document["normalizer"] = None
        document["pre_tokenizer"] = {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": TXT_WORDS}, "behavior": "Isolated", "invert": False},
                {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
            ],
        }
        for token in document["added_tokens"]:
            token.update(lstrip=False, rstrip=False, single_word=False, normalized=False)
    return type(tokenizer).from_str(json.dumps(document))


def _keeping_private(normalizer: Any) -> Any:
    """Bert's cleaning, without the characters of private use (Co), which the engine does not clean away."""
    if not normalizer or normalizer.get("type") != "BertNormalizer" or not normalizer.get("clean_text"):
        return normalizer
    cleaned = {"type": "Replace", "pattern": {"Regex": CLEANED}, "content": ""}
    return {"type": "Sequence", "normalizers": [cleaned, {**normalizer, "clean_text": False}]}


def ending_bytes(tokenizer: Any, facts: Facts) -> frozenset[int]:
    """Bytes at which byte-level tokenizer.txt ends the engine's process: the vocabulary lacks them (`encoder_.at`)."""
    if facts.file != "tokenizer.txt" or not facts.byte_level:
        return frozenset()
    vocabulary = tokenizer.get_vocab(with_added_tokens=False)
    return frozenset(byte for char, byte in CHAR_TO_BYTE.items() if char not in vocabulary)


def sentencepiece_piece(piece: str) -> bytes:
    """How tokenizer.txt's SentencePiece streams one piece: only its first mark becomes a blank.

    With the mark at byte n it takes n + 3 bytes away (the engine's `piece.replace(pos, pos + 3, " ")`).
    """
    if BYTE_PIECE.fullmatch(piece):
        return bytes.fromhex(piece[3:5])
    data = piece.encode()
    at = data.find(SPACE)
    return data if at < 0 else data[:at] + b" " + data[2 * at + len(SPACE) :]

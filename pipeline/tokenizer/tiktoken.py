"""A tiktoken vocabulary (base64 of the bytes, a blank, the rank; one a line) as `tokenizers` describes it."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any

from pipeline.errors import StageFailed
from pipeline.tokenizer.bytelevel import BYTE_TO_CHAR

CL100K = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def read_ranks(text: str) -> dict[bytes, int]:
    """Token bytes → id. Raises StageFailed naming the first damaged line."""
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            token, rank = line.split()
            ranks[base64.b64decode(token, validate=True)] = int(rank)
        except (ValueError, binascii.Error) as error:
            raise StageFailed(
                f"the tiktoken file is damaged at line {number}: {error}", "fetch the model again"
            ) from error
    return ranks


def describe(ranks: Mapping[bytes, int], specials: Mapping[str, int], pattern: str = CL100K) -> Mapping[str, Any]:
    """tokenizer.json as a dict. specials: text → id. pattern: the regex that cuts words."""
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    return {
        "added_tokens": [{"id": index, "content": text, "special": True} for text, index in specials.items()],
        "normalizer": None,
        "post_processor": None,
        "decoder": {"type": "ByteLevel"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
        "model": {
            "type": "BPE",
            "ignore_merges": True,
            "merges": merges(ranks),
            "vocab": {_piece(token): rank for token, rank in ranks.items()},
        },
    }


def merges(ranks: Mapping[bytes, int]) -> list[list[str]]:
    """tiktoken joins the pair whose bytes have the lowest rank: every split into two tokens is a merge of that rank."""
    found = []
    for token, rank in ranks.items():
        splits = [
            (token[:cut], token[cut:]) for cut in range(1, len(token)) if token[:cut] in ranks and token[cut:] in ranks
        ]
        splits.sort(key=lambda pair: (ranks[pair[0]], ranks[pair[1]]))
        found += [(rank, order, pair) for order, pair in enumerate(splits)]
    found.sort(key=lambda merge: merge[:2])
    return [[_piece(left), _piece(right)] for _, _, (left, right) in found]


def _piece(token: bytes) -> str:
    return "".join(BYTE_TO_CHAR[byte] for byte in token)

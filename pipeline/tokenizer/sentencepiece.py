"""A SentencePiece tokenizer.model as the `tokenizers` library would describe it.

Field numbers: sentencepiece_model.proto. The shape of the description follows what Hugging Face's own files say for
models converted from SentencePiece.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.tokenizer.definition import unsupported
from pipeline.tokenizer.protobuf import fields, float32

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
UNIGRAM, BPE = 1, 2
SPACE = "▁"


@dataclass
class Model:
    """pieces: (text, score, type) by id. charsmap: the compiled normalisation rules, empty for none."""

    pieces: list[tuple[str, float, int]]
    model_type: int = UNIGRAM
    byte_fallback: bool = False
    unknown_id: int = 0
    charsmap: bytes = b""
    add_dummy_prefix: bool = True
    remove_extra_whitespaces: bool = True


def parse(data: bytes) -> Model:
    """Raises StageFailed for a file that is no SentencePiece model."""
    model = Model(pieces=[])
    for number, value in fields(data):
        if number == 1 and isinstance(value, bytes):
            model.pieces.append(_piece(value))
        elif number == 2 and isinstance(value, bytes):
            trainer = dict(fields(value))
            model.model_type = int(trainer.get(3, UNIGRAM))
            model.byte_fallback = bool(trainer.get(35, 0))
            model.unknown_id = int(trainer.get(40, 0))
        elif number == 3 and isinstance(value, bytes):
            normalizer = dict(fields(value))
            charsmap = normalizer.get(2, b"")
            model.charsmap = charsmap if isinstance(charsmap, bytes) else b""
            model.add_dummy_prefix = bool(normalizer.get(3, 1))
            model.remove_extra_whitespaces = bool(normalizer.get(4, 1))
    return model


def _piece(data: bytes) -> tuple[str, float, int]:
    found = dict(fields(data))
    text = found.get(1, b"")
    assert isinstance(text, bytes)
    return text.decode("utf-8"), float32(found[2]) if 2 in found else 0.0, int(found.get(3, NORMAL))


def describe(model: Model) -> Mapping[str, Any]:
    """tokenizer.json as a dict. Raises StageFailed for model types other than BPE and Unigram."""
    if model.charsmap:
        raise unsupported(
            "normalisation rules of SentencePiece without tokenizer.json", "add the model's tokenizer.json"
        )
    return {
        "added_tokens": [
            {"id": index, "content": text, "special": kind != USER_DEFINED}
            for index, (text, _, kind) in enumerate(model.pieces)
            if kind in (UNKNOWN, CONTROL, USER_DEFINED)
        ],
        "normalizer": _normalizer(model),
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": _decoder(model),
        "model": _model(model),
    }


def _normalizer(model: Model) -> Mapping[str, Any]:
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    prepend = [{"type": "Prepend", "prepend": SPACE}] if model.add_dummy_prefix else []
    return {"type": "Sequence", "normalizers": [*prepend, replace]}


def _decoder(model: Model) -> Mapping[str, Any]:
    steps: list[dict[str, Any]] = [
        {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    if model.add_dummy_prefix:
        steps.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    return {"type": "Sequence", "decoders": steps}


def _model(model: Model) -> Mapping[str, Any]:
    if model.model_type == UNIGRAM:
        vocab = [[text, score] for text, score, _ in model.pieces]
        return {"type": "Unigram", "unk_id": model.unknown_id, "byte_fallback": model.byte_fallback, "vocab": vocab}
    if model.model_type != BPE:
        raise unsupported(f"SentencePiece model type {model.model_type}")
    return {
        "type": "BPE",
        "byte_fallback": model.byte_fallback,
        "fuse_unk": True,
        "unk_token": model.pieces[model.unknown_id][0],
        "vocab": {text: index for index, (text, _, _) in enumerate(model.pieces)},
        "merges": _merges(model),
    }


def _merges(model: Model) -> list[list[str]]:
    """Every split of a piece into two pieces, best score first; SentencePiece merges by the score of the result."""
    ids = {text: index for index, (text, _, kind) in enumerate(model.pieces) if kind in (NORMAL, UNUSED)}
    found = []
    for text, index in ids.items():
        local = [
            (ids[text[:cut]], ids[text[cut:]]) for cut in range(1, len(text)) if text[:cut] in ids and text[cut:] in ids
        ]
        found += [
            (-model.pieces[index][1], order, text, left, right) for order, (left, right) in enumerate(sorted(local))
        ]
    found.sort(key=lambda merge: merge[0])
    return [[model.pieces[left][0], model.pieces[right][0]] for _, _, _, left, right in found]

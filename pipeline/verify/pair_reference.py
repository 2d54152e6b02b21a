"""What Hugging Face says of a cross-encoder: token ids, token types and logits of the fixed pairs, in float32."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.verify import huggingface

REFERENCE = "pairs.json"
LOGITS = "logits.npy"
Json = dict[str, Any]


def inputs(
    tokenizer: Any, names: Sequence[str], pairs: Sequence[tuple[str, str]]
) -> list[dict[str, list[int]]]:
    """For each pair what the model is given: "input_ids", and "token_type_ids" if transformers' tokenizer names them.

    tokenizer: as `file_tokenizer` opens it, cut at the limit as sentence-transformers' CrossEncoder cuts. names: what
    transformers' tokenizer gives its model (`model_input_names`).
    """
    found = []
    for encoded in tokenizer.encode_batch([tuple(pair) for pair in pairs]):
        types = {"token_type_ids": list(encoded.type_ids)} if "token_type_ids" in names else {}
        found.append({"input_ids": list(encoded.ids), **types})
    return found


def load_classifier(folder: Path, model: Mapping[str, Any]) -> Any:
    """The classifier in float32; model: the recipe's `model` keys."""
    import torch
    from transformers import AutoModelForSequenceClassification

    options = {"dtype": torch.float32, "trust_remote_code": bool(model.get("trust_remote_code"))}
    safe = None if model.get("allow_pickle") else True
    return huggingface.load(AutoModelForSequenceClassification, folder, use_safetensors=safe, **options).eval()


def logits(classifier: Any, given: Sequence[Mapping[str, Sequence[int]]]) -> NDArray[np.float32]:
    """float32 [pairs]: each pair alone, without padding."""
    import torch

    with torch.inference_mode():
        rows = [
            classifier(**{name: torch.tensor([list(one)]) for name, one in pair.items()}).logits.reshape(())
            for pair in given
        ]
    return np.array([float(row) for row in rows], dtype=np.float32)

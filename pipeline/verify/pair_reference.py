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


def inputs(tokenizer: Any, pairs: Sequence[tuple[str, str]], limit: int) -> list[dict[str, list[int]]]:
    """For each pair what the model is given, by the names of its arguments: "input_ids", "token_type_ids" where the
    tokenizer has them, …; cut at `limit`, longest first, as sentence-transformers' CrossEncoder cuts."""
    encoded = tokenizer([tuple(pair) for pair in pairs], truncation=True, max_length=limit, padding=False)
    return [{name: [int(value) for value in encoded[name][index]] for name in encoded} for index in range(len(pairs))]


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

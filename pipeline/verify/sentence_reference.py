"""What Hugging Face says of an embedding model: token ids and vectors of the fixed sentences, in float32."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.checkpoint.sentence import SentenceConfig
from pipeline.verify import huggingface
from pipeline.verify.sentence_text import sentences

REFERENCE = "sentences.json"
VECTORS = "vectors.npy"
Vectors = NDArray[np.float32]


def texts(sentence: SentenceConfig) -> list[str]:
    """The fixed sentences, and one behind each of the model's prompts, as a person would send them."""
    told = sentences()
    whole = [*told, *(prompt + told[0] for prompt in sentence.prompts.values())]
    return [text.lower() for text in whole] if sentence.lowercase else whole


def token_ids(tokenizer: Any, whole: Sequence[str]) -> list[list[int]]:
    """Ids of every text with the tokenizer's own special tokens, cut as sentence-transformers cuts.

    tokenizer: as `file_tokenizer` opens it.
    """
    return [list(encoded.ids) for encoded in tokenizer.encode_batch(list(whole))]


def load_encoder(folder: Path, model: Mapping[str, Any]) -> Any:
    """The bare transformer in float32; model: the recipe's `model` keys."""
    import torch
    from transformers import AutoModel

    options = {"dtype": torch.float32, "trust_remote_code": bool(model.get("trust_remote_code"))}
    safe = None if model.get("allow_pickle") else True
    return huggingface.load(AutoModel, folder, use_safetensors=safe, **options).eval()


def vectors(encoder: Any, ids: Sequence[Sequence[int]], sentence: SentenceConfig) -> Vectors:
    """float32 [texts, dimensions]: each text alone, without padding, pooled as sentence-transformers pools."""
    import torch

    rows = []
    with torch.inference_mode():
        for one in ids:
            states = encoder(input_ids=torch.tensor([list(one)]))[0][0].double()
            vector = pool(states, sentence.pooling)
            rows.append((vector / vector.norm() if sentence.normalize else vector).float().numpy())
    return np.stack(rows)


def pool(states: Any, pooling: str) -> Any:
    """[tokens, hidden] → [hidden]."""
    if pooling == "mean":
        return states.sum(0) / len(states)
    if pooling == "max":
        return states.max(0).values
    return states[0] if pooling == "cls" else states[-1]

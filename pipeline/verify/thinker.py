"""Qwen2.5-Omni's thinker by Hugging Face: sounds and pictures in one prompt, positions by its own get_rope_index."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.graph.thinker import THINKER
from pipeline.graph.towers.tower_files import PROCESSORS
from pipeline.verify.metrics import Logits

RATE = 16000
HOP = 160  # samples of a frame


def is_thinker(model: Any) -> bool:
    """Whether a transformers model is one."""
    return bool(model.config.model_type == THINKER)


def extractor(source: Path) -> Callable[[Logits], Logits]:
    """Its processor's features of a sound, float32 [samples] → [1, 128, frames].

    They are made of the sound with silence behind it, and end where transformers' mask does: at the last frame that
    the sound has begun. That one hears the silence; the engine mirrors the sound there. Of the processor's 300 seconds
    of silence one is enough: no frame of the sound reaches further.
    """
    from transformers import WhisperFeatureExtractor

    kind: Any = WhisperFeatureExtractor
    described = any((source / name).is_file() for name in PROCESSORS)
    whisper = kind.from_pretrained(source) if described else kind(feature_size=128, chunk_length=300)

    def features(sound: Logits) -> Logits:
        length = (len(sound) // HOP + RATE // HOP) * HOP
        given = {"padding": "max_length", "max_length": length, "return_attention_mask": True, "return_tensors": "np"}
        told = whisper(sound, sampling_rate=RATE, **given)
        heard = np.asarray(told["attention_mask"])[0].astype(bool)
        return np.asarray(told["input_features"], np.float32)[:, :, heard]

    return features


def rows(
    model: Any, ids: Sequence[int], features: Sequence[Logits] = (), pictures: Mapping[str, Any] | None = None
) -> Logits:
    """float32 [len(ids), vocabulary] over the whole sequence, without a cache.

    features: of the sounds, float32 [1, 128, frames] each. pictures: what transformers' image processor gives.
    """
    import torch

    tokens = torch.tensor([list(ids)])
    inputs: dict[str, Any] = dict(pictures or {})
    if features:
        longest = max(one.shape[2] for one in features)
        padded = [np.pad(one[0], ((0, 0), (0, longest - one.shape[2]))) for one in features]
        heard = [[1] * one.shape[2] + [0] * (longest - one.shape[2]) for one in features]
        inputs |= {"input_features": torch.tensor(np.stack(padded)), "feature_attention_mask": torch.tensor(heard)}
    with torch.inference_mode():  # without the mask of ones transformers does not count positions
        result = model(input_ids=tokens, attention_mask=torch.ones_like(tokens), use_cache=False, **inputs)
    found: Logits = result.logits[0].float().numpy()
    return found

"""Qwen2.5-Omni's thinker: the part that sees, hears and writes. What speaks beside it is left out.

A checkpoint of the whole has `thinker_config`, `talker_config` and `token2wav_config` in its config.json, and tensors
named `thinker.…`, `talker.…` and `token2wav.…` (transformers: qwen2_5_omni). From here on only the thinker is known,
as transformers itself writes it when it is saved alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

WHOLE = "qwen2_5_omni"
THINKER = "qwen2_5_omni_thinker"
SECTION = "thinker_config"
SPEECH = ("talker.", "token2wav.")
KEPT = ("dtype", "torch_dtype", "quantization_config", "compression_config")  # said once for the whole
LEFT_OUT = "answers are text only: the talker and token2wav, which make speech of them, are left out"

_T = TypeVar("_T")


def thinker(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """A config.json's content, or for Qwen2.5-Omni that of its thinker alone."""
    inner = config.get(SECTION)
    if config.get("model_type") != WHOLE or not isinstance(inner, Mapping):
        return config
    outer = {key: config[key] for key in KEPT if key in config}
    architecture = "Qwen2_5OmniThinkerForConditionalGeneration"
    return {**outer, **inner, "model_type": THINKER, "architectures": [architecture]}


def without_speech(config: Mapping[str, Any], tensors: Mapping[str, _T]) -> dict[str, _T]:
    """`tensors` without those that only make speech; all of them for any other model. config: the model's."""
    speaks = config.get("model_type") in (WHOLE, THINKER)
    return {name: tensor for name, tensor in tensors.items() if not (speaks and name.startswith(SPEECH))}

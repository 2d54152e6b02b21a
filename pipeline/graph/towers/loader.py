"""Which of transformers' automatic classes loads a config's model."""

from __future__ import annotations

from typing import Any


def loader(config: Any) -> Any:
    """The class with encoders where the config has them, else that of causal language models."""
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoModelForMultimodalLM

    if getattr(config, "vision_config", None) and type(config) in AutoModelForImageTextToText._model_mapping:
        return AutoModelForImageTextToText
    if getattr(config, "audio_config", None) and type(config) in AutoModelForMultimodalLM._model_mapping:
        return AutoModelForMultimodalLM
    return AutoModelForCausalLM

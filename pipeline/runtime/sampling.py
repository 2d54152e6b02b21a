"""Sampling defaults: a model's generation_config.json in the engine's words.

Hugging Face samples only if `do_sample` is true and then applies penalty, temperature, top-k, top-p in this order; the
engine moves penalties first and divides by the temperature inside each later step, which comes to the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pipeline.runtime.key import version

# Hugging Face's own defaults for a generation_config that leaves them out.
_TOP_K, _TOP_P, _TEMPERATURE = 50, 1.0, 1.0

# Engines before 3.5 know the same parameters by other names.
_OLD_NAMES = {"top_k": "topK", "top_p": "topP", "repetition_penalty": "penalty"}


def sampling(generation: Mapping[str, Any], engine: str, note: Callable[[str], None]) -> dict[str, Any]:
    """Sampler keys of config.json for engine version `engine`. `note` gets a line for what the engine cannot say."""
    keys = _sampled(generation, note) if _samples(generation) else _greedy(generation)
    if version(engine) >= (3, 5, 0):
        return keys
    return {_OLD_NAMES.get(name, name): value for name, value in keys.items()}


def _samples(generation: Mapping[str, Any]) -> bool:
    return bool(generation.get("do_sample")) and float(_given(generation, "temperature", _TEMPERATURE)) > 0


def _greedy(generation: Mapping[str, Any]) -> dict[str, Any]:
    penalty = _penalty(generation)
    if not penalty:
        return {"sampler_type": "greedy"}
    return {"sampler_type": "mixed", "mixed_samplers": ["penalty", "greedy"], **penalty}


def _sampled(generation: Mapping[str, Any], note: Callable[[str], None]) -> dict[str, Any]:
    penalty = _penalty(generation)
    top_k = int(_given(generation, "top_k", _TOP_K))
    top_p = float(_given(generation, "top_p", _TOP_P))
    steps = ["penalty"] if penalty else []
    keys: dict[str, Any] = {"temperature": float(_given(generation, "temperature", _TEMPERATURE)), **penalty}
    if top_k > 0:
        steps.append("topK")
        keys["top_k"] = top_k
    if top_p < 1:
        steps.append("topP")
        keys["top_p"] = top_p
    if generation.get("min_p"):  # Hugging Face's is relative to the likeliest token, the engine's is absolute
        note(f"min_p {generation['min_p']} of generation_config.json is left out: the engine's means something else")
    return {"sampler_type": "mixed", "mixed_samplers": [*steps, "temperature"], **keys}


def _penalty(generation: Mapping[str, Any]) -> dict[str, Any]:
    """The repetition penalty, if it does anything (the engine ignores those below 1)."""
    penalty = float(_given(generation, "repetition_penalty", 1.0))
    return {"repetition_penalty": penalty} if penalty > 1 else {}


def _given(generation: Mapping[str, Any], name: str, default: float) -> Any:
    value = generation.get(name)
    return default if value is None else value

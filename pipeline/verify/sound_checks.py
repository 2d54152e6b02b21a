"""The gate's checks of a product with a sound encoder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.mnn.runner import Engine
from pipeline.verify import encoder_checks
from pipeline.verify.gate import Check, at_most
from pipeline.verify.sounds import chirp, prompt, sine

FEATURES = "the engine computes its mel features itself; docs/multimodal.md"


def selfcheck_checks(told: Mapping[str, Any], limit: float, features_limit: float) -> list[Check]:
    """The small random copy's errors on sounds, as shares of max|logit|.

    limit: on the engine's own features. features_limit: on Hugging Face's, which differ by rounding.
    """
    checks = []
    for sound, errors in sorted(told["sounds"].items()):
        for part in ("prefill_error", "decode_error"):
            checks.append(at_most(f"sound self-check, {sound}, {part.replace('_', ' ')}", errors[part], limit))
        name = f"sound self-check, {sound}, error with Hugging Face's own features"
        checks.append(at_most(name, errors["features_error"], features_limit, FEATURES))
    return checks


def product_checks(folder: Path, weights: Mapping[str, Any], threads: int) -> list[Check]:
    """The real encoder: its weight file is whole, and the product's logits are numbers that depend on the sound."""
    size = encoder_checks.weight_file(folder, "audio", "audio", weights)
    if not size.passed:
        return [size]
    with Engine(folder, {"thread_num": threads}) as engine:
        rows = [engine.prefill(engine.tokenize_sounds(prompt(1), [sound])) for sound in (sine(), chirp())]
    return [size, *encoder_checks.dependence("sound", *rows)]

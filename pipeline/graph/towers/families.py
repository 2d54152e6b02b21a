"""Which multimodal families there are, by the config's `model_type`. No torch here: plans ask this module too.

`VISUAL` and `AUDIO` name the adapters; the families there are those that the tests take to the engine and compare with
Hugging Face. `REFUSED` says why another one is not among them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.errors import UserError
from pipeline.graph.thinker import THINKER, WHOLE, thinker

VISUAL: dict[str, str] = {
    "gemma3": "pipeline.graph.towers.gemma3",
    "idefics3": "pipeline.graph.towers.idefics3",
    "internvl": "pipeline.graph.towers.internvl",
    "lfm2_vl": "pipeline.graph.towers.lfm2_vl",
    "minicpmv4_6": "pipeline.graph.towers.minicpmv4_6",
    "minicpmv4_7": "pipeline.graph.towers.minicpmv4_7",
    "qwen2_5_omni": "pipeline.graph.towers.qwen2_5_omni",
    "qwen2_5_vl": "pipeline.graph.towers.qwen2_5_vl",
    "qwen2_vl": "pipeline.graph.towers.qwen2_vl",
    "qwen3_5": "pipeline.graph.towers.qwen3_5",
    "qwen3_5_moe": "pipeline.graph.towers.qwen3_5",
    "qwen3_vl": "pipeline.graph.towers.qwen3_vl",
    "smolvlm": "pipeline.graph.towers.idefics3",
}
AUDIO: dict[str, str] = {
    "qwen2_5_omni": "pipeline.graph.towers.qwen2_5_omni_audio",
    "qwen2_audio": "pipeline.graph.towers.qwen2_audio",
}

REFUSED: dict[str, str] = {
    "gemma4": "no adapter for its encoders and its embeddings by layer is written",
    "paligemma": "all tokens of its prompt see each other in both directions, for which no engine mask can be widened",
}

# Families of whose positions the engine's own are wrong from a picture's first token on.
COUNTED = frozenset({"minicpmv4_7"})

# The section of config.json that says that a model has such an encoder.
SECTIONS = {"visual": ("vision_config",), "audio": ("audio_config",)}


def adapters(model_type: str) -> dict[str, str]:
    """kind ("visual", "audio") → adapter's module, for the encoders that can be built."""
    family = WHOLE if model_type == THINKER else model_type
    found = {"visual": VISUAL.get(family), "audio": AUDIO.get(family)}
    return {kind: module for kind, module in found.items() if module}


def modalities(config: Mapping[str, Any]) -> list[str]:
    """The encoders that a config.json names, buildable or not: a subset of ["visual", "audio"]."""
    inner = thinker(config)
    return [kind for kind, names in SECTIONS.items() if any(isinstance(inner.get(name), Mapping) for name in names)]


def check(config: Mapping[str, Any], wanted: Mapping[str, bool]) -> None:
    """Raises UserError if the config names an encoder that cannot be built and that the recipe does not leave out.

    wanted: kind → whether the recipe wants that encoder (`visual.mode` is not off).
    """
    model_type = str(config.get("model_type", ""))
    for kind in modalities(config):
        if wanted.get(kind, True) and kind not in adapters(model_type):
            reason = REFUSED.get(model_type, f"no adapter for its {kind} encoder is written")
            raise UserError(
                f"{model_type}: {reason}",
                f"choose one of {', '.join(sorted({'visual': VISUAL, 'audio': AUDIO}[kind]))}, "
                f"or build the text part alone with {kind}.mode=off",
            )


def check_positions(model_type: str, positions: str) -> None:
    """Raises UserError for a family whose positions the graph must count, if the recipe leaves them to the engine.

    positions: `visual.positions`, which targets that compute in half precision set to "engine".
    """
    if model_type in COUNTED and positions == "engine":
        raise UserError(
            f"{model_type} lays a picture and its slices on a canvas, whose positions the engine does not count",
            "use visual.positions=exact on a target that computes in float32, or visual.mode=off for the text alone",
        )

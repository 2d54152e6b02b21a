"""The stages, producers before consumers. A new stage is a file beside this one, and a line here."""

from __future__ import annotations

import importlib

from pipeline.build.stage import Stage

ORDER = (
    "checkpoint",
    "pair",
    "graph",
    "visual_graph",
    "audio_graph",
    "selftext",
    "statistics",
    "sensitivity",
    "places",
    "gptq",
    "awq",
    "weights",
    "visual_weights",
    "audio_weights",
    "embedding",
    "link",
    "visual_link",
    "audio_link",
    "tokenizer",
    "parity",
    "config",
    "exactness",
    "adapters",
    "selfcheck",
    "visual_selfcheck",
    "audio_selfcheck",
    "reference",
    "quality",
    "sentence_reference",
    "sentence_quality",
    "pair_reference",
    "pair_quality",
    "adapter_reference",
    "adapter_quality",
)


def stages() -> list[Stage]:
    """Every stage's declaration. Their modules import what is heavy only inside `run`."""
    return [_stage(name) for name in ORDER]


def _stage(name: str) -> Stage:
    stage = importlib.import_module(f"pipeline.stages.{name}").STAGE
    assert isinstance(stage, Stage)
    return stage

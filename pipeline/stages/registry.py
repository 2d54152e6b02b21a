"""The stages, producers before consumers. A new stage is a file beside this one, and a line here."""

from __future__ import annotations

import importlib
from pathlib import Path

from pipeline.build.stage import Stage

ORDER = (
    "checkpoint",
    "graph",
    "statistics",
    "sensitivity",
    "gptq",
    "weights",
    "embedding",
    "link",
    "tokenizer",
    "config",
    "selfcheck",
    "reference",
    "quality",
)


def stages() -> list[Stage]:
    """Every stage's declaration. Their modules import what is heavy only inside `run`."""
    modules = [importlib.import_module(f"pipeline.stages.{name}") for name in ORDER if _exists(name)]
    return [module.STAGE for module in modules if hasattr(module, "STAGE")]


def _exists(name: str) -> bool:
    return (Path(__file__).parent / f"{name}.py").is_file()

"""The toy stages of tests/build for a real `doit` on real recipes: they read what every model folder has."""

from __future__ import annotations

from dataclasses import replace

from pipeline.build.stage import Input
from tests.build.project import STAGES


def stages() -> list[object]:
    """In the order of the real ones."""
    changed = {
        "checkpoint": {"inputs": (Input("source", ("config.json",)),)},
        "weights": {"inputs": (Input("source", ("config.json",)), Input("graph", ("layout.json",)))},
        "quality": {"config": ("verify.length",)},
    }
    return [replace(stage, **changed.get(stage.name, {})) for stage in STAGES]  # type: ignore[arg-type]

"""The checkpoint stage's output for a tiny model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pipeline.build.config import subset
from pipeline.stages import checkpoint
from tests.graph.product import Silent, recipe
from tests.tiny_models import write_tiny_model


def write_checkpoint(family: str, folder: Path, **overrides: Any) -> Path:
    """`folder`/checkpoint of a tiny `family`."""
    source, adapter, out = folder / "source", folder / "adapter", folder / "checkpoint"
    write_tiny_model(family, source, **overrides)
    adapter.mkdir()
    out.mkdir()
    checkpoint.run(subset(recipe(), checkpoint.STAGE.config), {"source": source, "adapter": adapter}, out, Silent())
    return out


def edit_json(path: Path, **changes: Any) -> None:
    """Changes top-level keys of a JSON file; None deletes."""
    content = json.loads(path.read_text())
    for key, value in changes.items():
        if value is None:
            del content[key]
        else:
            content[key] = value
    path.write_text(json.dumps(content))

"""Which encoders a model has beside its decoder: its YAML says it, a local folder's config.json does."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

from pipeline.graph.towers import families


def complete(config: dict[str, Any]) -> None:
    """Sets a plain recipe's `model.modalities` from the folder of a local model, in place; others keep their YAML's.

    Not part of the cached composition: the folder may change without any YAML.
    """
    model = config["model"]
    file = Path(model["path"]) / "config.json"
    if model["hub"] != "local" or not file.is_file():
        return
    with contextlib.suppress(ValueError, OSError):  # the source stage refuses a config.json that cannot be read
        content = json.loads(file.read_text("utf-8"))
        if isinstance(content, dict):
            model["modalities"] = families.modalities(content)

"""What a model is for, as far as its config.json says it: a classifier with one label is a reranker."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.graph.classifier import check_cross_encoder, classifier, is_cross_encoder


def complete(config: dict[str, Any]) -> None:
    """Sets a plain recipe's `model.task` from the folder of a local model, in place, unless it is an embedding's.

    Not part of the cached composition: the folder may change without any YAML.
    """
    model = config["model"]
    file = Path(model["path"]) / "config.json"
    if model["hub"] != "local" or model["task"] != "text" or not file.is_file():
        return
    with contextlib.suppress(ValueError, OSError):  # the source stage refuses a config.json that cannot be read
        content = json.loads(file.read_text("utf-8"))
        if isinstance(content, dict) and is_cross_encoder(content):
            model["task"] = "rerank"


def check(task: str, config: Mapping[str, Any]) -> None:
    """Raises UserError for a task that the model of a config.json was not made for."""
    if task == "rerank" or (task == "text" and classifier(config)):
        check_cross_encoder(config)
    if task == "embedding" and (named := classifier(config)):
        raise UserError(f"a {named} scores pairs of texts and makes no vectors", "set model.task=rerank")

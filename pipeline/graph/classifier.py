"""What a cross-encoder's folder says of its scores: labels, the function over the logit, the longest pair.

File formats: transformers' config.json (`architectures`, `id2label`) and tokenizer_config.json (`model_max_length`);
sentence-transformers' keys in config.json (`sentence_transformers.activation_fn`, before version 4
`sbert_ce_default_activation_function`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.errors import UserError

HEAD = "ForSequenceClassification"
ACTIVATIONS = {"Sigmoid": "sigmoid", "Identity": "identity"}
_UNSET = 1 << 24  # transformers writes 1e30 for "no limit"


def classifier(config: Mapping[str, Any]) -> str:
    """The class among a config.json's `architectures` that classifies whole sequences, or ""."""
    names = config.get("architectures") or []
    return next((str(name) for name in names if str(name).endswith(HEAD)), "")


def labels(config: Mapping[str, Any]) -> int:
    """How many labels a config.json's classifier has; 2 where it does not say, as in transformers."""
    named = config.get("id2label")
    return len(named) if isinstance(named, Mapping) else int(config.get("num_labels") or 2)


def is_cross_encoder(config: Mapping[str, Any]) -> bool:
    """A classifier with a single label gives a score for a pair of texts."""
    return bool(classifier(config)) and labels(config) == 1


def check_cross_encoder(config: Mapping[str, Any]) -> None:
    """Raises UserError for a config.json that is no cross-encoder's."""
    if not classifier(config):
        raise UserError(
            f"the model's config.json names no …{HEAD} among its architectures, so it has no head that scores pairs",
            "leave model.task out, or say model.task=embedding",
        )
    if labels(config) != 1:
        raise UserError(
            f"the {classifier(config)} sorts texts into {labels(config)} classes; a reranker has one score",
            "choose a model with a single label",
        )


def activation(config: Mapping[str, Any]) -> str:
    """What makes a score of the logit: "sigmoid", or "identity" where the model's authors leave it as it is."""
    told = config.get("sentence_transformers")
    named = told.get("activation_fn") if isinstance(told, Mapping) else None
    named = named or config.get("sbert_ce_default_activation_function") or "Sigmoid"
    name = str(named).rpartition(".")[2]
    if name not in ACTIVATIONS:
        raise UserError(f"the model's scores go through {named}, which is not known", "Sigmoid and Identity are")
    return ACTIVATIONS[name]


def longest(tokenizer_config: Mapping[str, Any]) -> int:
    """tokenizer_config.json's `model_max_length` in tokens; 0 where it sets none."""
    told = tokenizer_config.get("model_max_length")
    return int(told) if isinstance(told, int | float) and 0 < told < _UNSET else 0

"""A PEFT adapter's configuration: what it says of each module's rank and scale, and what cannot be merged."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.checkpoint.files import read_json
from pipeline.errors import StageFailed

# Fields of peft.LoraConfig that change what the weights mean in a way that a merge cannot express, or that is not
# done here. Each must be absent, false or empty.
REFUSED = {
    "alora_invocation_tokens": "an activated LoRA works on some tokens only",
    "layer_replication": "it repeats layers of the base model",
    "trainable_token_indices": "it trains single tokens' rows",
    "use_qalora": "QALoRA pools the inputs of its A matrices",
    "use_bdlora": "its matrices are block-diagonal",
    "arrow_config": "it routes between adapters at run time",
    "megatron_config": "its layers are Megatron's",
    "kasa_config": "it changes the base weights when it is loaded",
    "velora_config": "its meaning is not known here",
    "monteclora_config": "its meaning is not known here",
}
# Initialisations that take their part out of the base weights: the adapter is a difference to other weights than ours.
CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga", "orthogonal_base")


@dataclass(frozen=True)
class LoraConfig:
    """adapter_config.json, checked. `weight` multiplies every low-rank difference (adapter.weight of the recipe)."""

    values: Mapping[str, Any]
    name: str
    weight: float = 1.0

    def rank(self, module: str) -> int:
        """The declared rank of a module, by rank_pattern or r."""
        return int(_by_pattern(self.values.get("rank_pattern"), module, self.values.get("r", 8)))

    def scale(self, module: str) -> float:
        """alpha / r, or alpha / √r for rank-stabilised LoRA, times `weight` (peft: LoraLayer.update_layer)."""
        alpha = float(_by_pattern(self.values.get("alpha_pattern"), module, self.values.get("lora_alpha", 8)))
        rank = self.rank(module)
        return self.weight * alpha / (math.sqrt(rank) if self.values.get("use_rslora") else rank)

    @property
    def targets(self) -> list[str]:
        """Names of target modules where the file lists them; [] where it gives a pattern or "all-linear"."""
        targets = self.values.get("target_modules")
        return [str(target) for target in targets] if isinstance(targets, list) else []


def read_config(path: Path, name: str, weight: float) -> LoraConfig:
    """Read and check adapter_config.json. Raises StageFailed for another method than LoRA, or one that is refused."""
    values = read_json(path)
    if not isinstance(values, dict) or values.get("peft_type") != "LORA":
        kind = values.get("peft_type") if isinstance(values, dict) else None
        raise StageFailed(f"{name} is an adapter of type {kind}; LORA is merged here", "use a LoRA adapter")
    for field, reason in REFUSED.items():
        if values.get(field):
            raise StageFailed(f"{name} uses {field}: {reason}", "merge it with PEFT and export the merged model")
    start = str(values.get("init_lora_weights", True)).lower()
    if start.startswith(CHANGES_BASE):
        raise StageFailed(
            f"{name} was initialised with {start}, which changes the base weights under it",
            "save it with PEFT's path_initial_model_for_weight_conversion, which makes it a plain LoRA",
        )
    return LoraConfig(values, name, weight)


def _by_pattern(patterns: Any, module: str, default: Any) -> Any:
    """The value of the first pattern that matches the end of the module's name (peft: get_pattern_key)."""
    for pattern, value in (patterns or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return default

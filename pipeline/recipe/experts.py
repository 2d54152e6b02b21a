"""Calibrated algorithms on mixture-of-experts models: refused before any work where they would not reach the experts.

transformers keeps a layer's experts in one stacked tensor, in a module that calls no linear of its own: calibration by
hooks on linears sees none of their inputs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pipeline.errors import UserError
from pipeline.recipe.schema import Quant, Rule
from pipeline.weights.algorithms import CALIBRATED

FAMILIES = ("mixtral", "olmoe", "gpt_oss", "phimoe")
"""Of model types, those with experts whose name does not end in "moe"."""
COUNTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
PROBES = ("model.layers.1.mlp.experts.0.down_proj", "model.layers.1.block_sparse_moe.experts.0.down_proj")
"""Names of the kind that linears of experts have (docs/architecture.md)."""


def has_experts(family: str, config: Mapping[str, Any]) -> bool:
    """Whether the model type, or its config.json ({} if it is not known yet), tells of experts."""
    counts = [config.get(key) for key in COUNTS]
    return family in FAMILIES or family.endswith("moe") or any(isinstance(n, int) and n > 1 for n in counts)


def refuse_uncalibrated(quant: Quant, family: str, config: Mapping[str, Any]) -> None:
    """Raises UserError if a calibrated algorithm would meet experts: no rule gives them one that needs no text."""
    if not has_experts(family, config) or not any(_is_calibrated(quant, _winner(quant, probe)) for probe in PROBES):
        return
    raise UserError(
        f"{quant.algorithm} cannot calibrate experts that are kept in one stacked tensor ({family or 'this model'})",
        "add quant.rules=[{pattern: experts, algorithm: mse}]",
    )


def _winner(quant: Quant, name: str) -> Rule | None:
    return next((rule for rule in quant.rules if re.search(rule.pattern, name)), None)


def _is_calibrated(quant: Quant, rule: Rule | None) -> bool:
    if rule is not None and (rule.keep or rule.bits == 16):
        return False
    return (rule.algorithm if rule and rule.algorithm else quant.algorithm) in CALIBRATED

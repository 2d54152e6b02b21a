"""Graphs that leave something out with consent (`graph.allow_approximate`): what that costs, and what the gate says.

Only attention softcaps so far (Gemma 2): cap · tanh(score / cap) in front of the softmax, for which the engine's
attention op has no place; and since that op keeps keys and values to itself, no other ops could do it in its stead.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.verify import huggingface, metrics
from pipeline.verify.gate import Check, at_most, not_run

if TYPE_CHECKING:
    from pipeline.verify.subject import Subject

_CAP = "attn_logit_softcapping"


def is_capped(model: Any) -> bool:
    """True if an attention of the Hugging Face model caps its scores."""
    return any(getattr(module, _CAP, None) for module in model.modules())


@contextmanager
def without_softcap(model: Any) -> Iterator[None]:
    """While open, no attention of the Hugging Face model caps its scores: what an approximate graph computes."""
    modules = [module for module in model.modules() if getattr(module, _CAP, None)]
    caps = [getattr(module, _CAP) for module in modules]
    for module in modules:
        setattr(module, _CAP, None)
    try:
        yield
    finally:
        for module, cap in zip(modules, caps, strict=True):
            setattr(module, _CAP, cap)


def cost(model: Any, sequences: Sequence[Sequence[int]], logits: metrics.Logits) -> dict[str, Any]:
    """How far Hugging Face itself, in float32, is from `logits` (of `sequences`) without its softcap."""
    with without_softcap(model):
        parts = [
            metrics.compare_logits(np.asarray(expected), huggingface.sequence_logits(model, ids))
            for ids, expected in zip(sequences, logits, strict=True)
        ]
    return metrics.pooled(parts).as_dict()


@dataclass(frozen=True)
class LeftOut:
    """names: layout.json's approximations. small_error: relative logit error of the self-check's small model from them.

    cost: `cost()` of the real model; None if the machine had no room for it.
    """

    names: Sequence[str]
    small_error: float
    cost: Mapping[str, Any] | None

    def checks(self) -> list[Check]:
        """Figures for the report, without limits: consent was given for them."""
        what = "; ".join(self.names)
        small = at_most("approximation, relative logit error of a small random model", self.small_error, None, what)
        name = "approximation, mean KL divergence of the float32 model"
        if self.cost is None:
            return [small, not_run(name, "the reference was not loaded")]
        return [small, at_most(name, float(self.cost["kld_mean"]), None, what)]

    def widened(self, subject: Subject) -> Subject:
        """The subject with limits on logits widened by what leaving it out costs by itself, and none on equal text."""
        cost = self.cost or {"kld_mean": 0.0, "top1": 1.0}
        limits = {**subject.limits, "greedy_equal": False, "max_logit_error_absolute": None}
        if limits.get("max_kld") is not None:
            limits["max_kld"] += cost["kld_mean"]
        if limits.get("min_top1") is not None:
            limits["min_top1"] -= 1 - cost["top1"]
        return replace(subject, limits=limits)


def left_out(selfcheck: Mapping[str, Any], reference: Mapping[str, Any]) -> LeftOut | None:
    """What selfcheck.json says of approximations; None if the graph leaves nothing out."""
    if not selfcheck.get("approximations"):
        return None
    error = float(selfcheck["approximation_error"])
    return LeftOut(selfcheck["approximations"], error, reference.get("without_softcap"))

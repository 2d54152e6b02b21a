"""The engine's sampler, step by step, so that tokens can be streamed, stopped between, and drawn from a seed.

The engine's own loop can neither be interrupted nor seeded. The steps below are those of its tag 3.6.1
(transformers/llm/engine/src/sampler.cpp) with its meanings: min_p is an absolute probability, temperature divides
inside every step, penalties come first and only if they are listed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import UserError

Logits = npt.NDArray[np.float32]
_MIXED = ("topK", "tfs", "typical", "topP", "min_p", "temperature")
_MAX_PENALTY = 10.0
# What the engine uses for sampler_type=topK, which does not read `temperature`.
_TOP_K_TEMPERATURE = 0.8


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen. steps: filters in order; greedy: take the likeliest of what they leave."""

    greedy: bool = False
    steps: tuple[str, ...] = ()
    temperature: float = 1.0
    top_k: int = 40
    top_p: float = 0.9
    min_p: float = 0.1
    tfs_z: float = 1.0
    typical: float = 1.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    penalty_window: int = 0
    logit_bias: tuple[tuple[int, float], ...] = ()
    banned_tokens: tuple[int, ...] = ()

    def changed(self, **changes: Any) -> Sampling:
        """A copy with other values."""
        return replace(self, **changes)


GREEDY = Sampling(greedy=True)


def from_config(config: Mapping[str, Any]) -> Sampling:
    """The sampler that the engine would build from config.json's keys (defaults of tag 3.6.1).

    Raises UserError for what is not available token by token (n-gram penalties).
    """
    kind = str(config.get("sampler_type", "mixed"))
    if float(config.get("ngram_factor", 1.0)) > 1.0:
        raise UserError("ngram_factor is not available here", "set ngram_factor=1.0")
    mixed = tuple(config.get("mixed_samplers", _MIXED))
    steps = mixed if kind == "mixed" else (kind,)
    last = steps[-1] if kind != "penalty" else str(config.get("penalty_sampler", "greedy"))
    only_mixed = config if kind == "mixed" else {}
    return Sampling(
        greedy=last == "greedy",
        steps=_penalty_first(steps),
        temperature=_TOP_K_TEMPERATURE if kind == "topK" else float(config.get("temperature", 1.0)),
        top_k=int(config.get("top_k", config.get("topK", 40))),
        top_p=float(config.get("top_p", config.get("topP", 0.9))),
        min_p=float(config.get("min_p", config.get("minP", 0.1))),
        tfs_z=float(config.get("tfs_z", config.get("tfsZ", 1.0))),
        typical=float(config.get("typical", 1.0)),
        repetition_penalty=float(config.get("repetition_penalty", config.get("penalty", 1.0))),
        presence_penalty=float(config.get("presence_penalty", 0.0)),
        frequency_penalty=float(config.get("frequency_penalty", 0.0)),
        penalty_window=int(config.get("penalty_window", 0)),
        logit_bias=tuple((int(token), float(bias)) for token, bias in only_mixed.get("logit_bias", {}).items()),
        banned_tokens=tuple(only_mixed.get("banned_tokens", ())),
    )


class Sampler:
    """Draws tokens from logits with a generator of its own; the same seed draws the same tokens."""

    def __init__(self, sampling: Sampling, seed: int | None = None) -> None:
        self.sampling = sampling
        self._random = np.random.default_rng(seed)

    def pick(self, logits: Logits, history: Sequence[int]) -> int:
        """The next token. logits: float32 [vocab]; history: all tokens so far, prompt included."""
        logits = self._filtered(logits.astype(np.float32, copy=True), history)
        if self.sampling.greedy:
            return int(np.argmax(logits))
        kept = np.flatnonzero(np.isfinite(logits))
        cumulative = np.cumsum(_probabilities(logits[kept], self.sampling.temperature))
        index = int(np.searchsorted(cumulative, self._random.random() * cumulative[-1], side="right"))
        return int(kept[min(index, len(kept) - 1)])

    def _filtered(self, logits: Logits, history: Sequence[int]) -> Logits:
        for token, bias in self.sampling.logit_bias:
            if 0 <= token < len(logits):
                logits[token] += bias
        banned = [token for token in self.sampling.banned_tokens if 0 <= token < len(logits)]
        logits[banned] = -np.inf
        for step in self.sampling.steps:
            if step == "penalty":
                _penalise(logits, history, self.sampling)
            elif step in _FILTERS:
                kept = _FILTERS[step](logits, self.sampling)
                logits = np.where(kept, logits, np.float32(-np.inf))
        return logits


def _penalty_first(steps: tuple[str, ...]) -> tuple[str, ...]:
    others = tuple(step for step in steps if step != "penalty")
    return ("penalty", *others) if "penalty" in steps else others


def _probabilities(logits: npt.NDArray[np.floating[Any]], temperature: float) -> npt.NDArray[np.float64]:
    """Softmax at `temperature`; -inf stays 0. Temperature 0 is the limit: all weight on the likeliest."""
    if temperature <= 0:
        return np.asarray(logits == logits.max(), dtype=np.float64)
    scaled = (logits.astype(np.float64) - float(logits.max())) / temperature
    weights = np.exp(scaled)
    return np.asarray(weights / weights.sum())


def _first(order: npt.NDArray[np.intp], count: int, size: int) -> npt.NDArray[np.bool_]:
    kept = np.zeros(size, dtype=bool)
    kept[order[:count]] = True
    return kept


def _descending(values: npt.NDArray[Any]) -> npt.NDArray[np.intp]:
    return np.argsort(-values, kind="stable")


def _top_k(logits: Logits, sampling: Sampling) -> npt.NDArray[np.bool_]:
    return _first(_descending(logits), max(1, sampling.top_k), len(logits))


def _top_p(logits: Logits, sampling: Sampling) -> npt.NDArray[np.bool_]:
    """The fewest likeliest tokens whose probabilities sum up to top_p."""
    probabilities = _probabilities(logits, sampling.temperature)
    order = _descending(probabilities)
    count = int(np.searchsorted(np.cumsum(probabilities[order]), sampling.top_p)) + 1
    return _first(order, count, len(logits))


def _min_p(logits: Logits, sampling: Sampling) -> npt.NDArray[np.bool_]:
    probabilities = _probabilities(logits, sampling.temperature)
    return np.asarray((probabilities >= sampling.min_p) | (np.arange(len(logits)) == np.argmax(logits)))


def _tail_free(logits: Logits, sampling: Sampling) -> npt.NDArray[np.bool_]:
    """Tail-free sampling: cut where the normalised second derivative of the sorted probabilities sums up to tfs_z."""
    probabilities = _probabilities(logits, sampling.temperature)
    size = int(np.isfinite(logits).sum())
    if size < 3:
        return np.isfinite(logits)
    order = _descending(probabilities)[:size]
    curve = np.abs(np.diff(probabilities[order], 2))
    total = curve.sum()
    cumulative = np.cumsum(curve / total if total > 0 else curve)
    reached = np.flatnonzero(cumulative >= sampling.tfs_z)
    count = int(reached[0]) if reached.size else size - 2
    return _first(order, max(1, count), len(logits))


def _typical(logits: Logits, sampling: Sampling) -> npt.NDArray[np.bool_]:
    """Locally typical sampling: tokens whose surprise is nearest to the entropy, until they sum up to `typical`."""
    probabilities = _probabilities(logits, sampling.temperature)
    with np.errstate(divide="ignore"):
        surprise = -np.log(probabilities)
    entropy = float((probabilities[probabilities > 0] * surprise[probabilities > 0]).sum())
    order = np.argsort(np.abs(surprise - entropy), kind="stable")
    count = int(np.searchsorted(np.cumsum(probabilities[order]), sampling.typical)) + 1
    return _first(order, count, len(logits)) & np.isfinite(logits)


def _penalise(logits: Logits, history: Sequence[int], sampling: Sampling) -> None:
    """Repetition (a factor), presence and frequency penalties on the tokens of the window."""
    window = history[-sampling.penalty_window :] if sampling.penalty_window > 0 else history
    active = sampling.repetition_penalty > 1 or sampling.presence_penalty > 0 or sampling.frequency_penalty > 0
    if not active or not window:
        return
    tokens, counts = np.unique(np.asarray(window), return_counts=True)
    values = logits[tokens]
    factor = min(sampling.repetition_penalty, _MAX_PENALTY)
    if factor > 1:
        values = np.where(values >= 0, values / factor, values * factor)
    logits[tokens] = values - sampling.presence_penalty - max(0.0, sampling.frequency_penalty) * counts


_FILTERS: dict[str, Callable[[Logits, Sampling], npt.NDArray[np.bool_]]] = {
    "topK": _top_k,
    "topP": _top_p,
    "minP": _min_p,
    "min_p": _min_p,
    "tfs": _tail_free,
    "typical": _typical,
}

"""The sampler's steps against closed forms, against transformers' warpers, and against the engine's own sampler."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import (
    RepetitionPenaltyLogitsProcessor,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)

from pipeline.errors import UserError
from pipeline.mnn.runner import Engine
from pipeline.use.sampler import GREEDY, Sampler, Sampling, from_config

LOGITS = np.random.default_rng(0).standard_normal(50).astype(np.float32) * 2


def _support(sampling: Sampling, logits: np.ndarray = LOGITS) -> set[int]:
    """Tokens that the filters leave."""
    return set(np.flatnonzero(np.isfinite(Sampler(sampling)._filtered(logits.copy(), []))).tolist())


def _softmax(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    return torch.softmax(torch.from_numpy(logits.astype(np.float64)) / temperature, -1).numpy()


def test_greedy_takes_the_likeliest() -> None:
    assert Sampler(GREEDY).pick(LOGITS, []) == int(LOGITS.argmax())


def test_the_input_is_not_changed() -> None:
    before = LOGITS.copy()
    Sampler(Sampling(steps=("penalty", "topK"), repetition_penalty=2.0)).pick(LOGITS, [1, 2])
    assert np.array_equal(LOGITS, before)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_draws_follow_the_softmax(temperature: float) -> None:
    logits = np.array([2.0, 1.0, 0.0, -1.0], np.float32)
    sampler = Sampler(Sampling(temperature=temperature), seed=1)
    counts = Counter(sampler.pick(logits, []) for _ in range(4000))
    found = np.array([counts[token] for token in range(4)]) / 4000
    assert np.abs(found - _softmax(logits, temperature)).max() < 0.03  # four standard deviations


def test_temperature_zero_is_greedy() -> None:
    sampler = Sampler(Sampling(temperature=0.0), seed=0)
    assert {sampler.pick(LOGITS, []) for _ in range(30)} == {int(LOGITS.argmax())}


@pytest.mark.parametrize("k", [1, 3, 10])
def test_top_k_keeps_what_transformers_keeps(k: int) -> None:
    kept = TopKLogitsWarper(k)(torch.tensor([[0]]), torch.from_numpy(LOGITS)[None])[0]
    expected = set(torch.nonzero(kept.isfinite()).flatten().tolist())
    assert _support(Sampling(steps=("topK",), top_k=k, temperature=10.0)) == expected


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_top_p_keeps_what_transformers_keeps(p: float) -> None:
    kept = TopPLogitsWarper(p)(torch.tensor([[0]]), torch.from_numpy(LOGITS)[None])[0]
    expected = set(torch.nonzero(kept.isfinite()).flatten().tolist())
    assert _support(Sampling(steps=("topP",), top_p=p)) == expected


@pytest.mark.parametrize("mass", [0.2, 0.6, 0.9])
def test_typical_keeps_what_transformers_keeps(mass: float) -> None:
    kept = TypicalLogitsWarper(mass)(torch.tensor([[0]]), torch.from_numpy(LOGITS)[None])[0]
    expected = set(torch.nonzero(kept.isfinite()).flatten().tolist())
    assert _support(Sampling(steps=("typical",), typical=mass)) == expected


def test_min_p_is_an_absolute_probability() -> None:
    probabilities = _softmax(LOGITS)
    expected = set(np.flatnonzero(probabilities >= 0.05).tolist())
    assert _support(Sampling(steps=("min_p",), min_p=0.05)) == expected


def test_min_p_above_all_keeps_the_likeliest() -> None:
    assert _support(Sampling(steps=("min_p",), min_p=0.999)) == {int(LOGITS.argmax())}


def test_tail_free_cuts_the_tail() -> None:
    """Second differences of .5 .3 .1 .06 .04 are 0, .16, .02: of their sum 0 %, 89 %, 100 % are reached."""
    logits = np.log(np.array([0.5, 0.3, 0.1, 0.06, 0.04])).astype(np.float32)
    assert _support(Sampling(steps=("tfs",), tfs_z=0.5), logits) == {0}
    assert _support(Sampling(steps=("tfs",), tfs_z=0.95), logits) == {0, 1}


def test_repetition_penalty_equals_transformers() -> None:
    history = [3, 3, 7, 20]
    processor = RepetitionPenaltyLogitsProcessor(1.7)
    expected = processor(torch.tensor([history]), torch.from_numpy(LOGITS.copy())[None])[0].numpy()
    sampling = Sampling(greedy=True, steps=("penalty",), repetition_penalty=1.7)
    found = Sampler(sampling)._filtered(LOGITS.copy(), history)
    assert np.allclose(found, expected, atol=1e-6)


def test_presence_and_frequency_penalties() -> None:
    sampling = Sampling(steps=("penalty",), presence_penalty=0.5, frequency_penalty=0.25)
    found = Sampler(sampling)._filtered(LOGITS.copy(), [4, 4, 9])
    expected = LOGITS.copy()
    expected[4] -= 0.5 + 2 * 0.25
    expected[9] -= 0.5 + 0.25
    assert np.allclose(found, expected)


def test_penalties_look_back_as_far_as_the_window() -> None:
    sampling = Sampling(steps=("penalty",), presence_penalty=1.0, penalty_window=2)
    changed = Sampler(sampling)._filtered(LOGITS.copy(), [1, 2, 3]) != LOGITS
    assert set(np.flatnonzero(changed)) == {2, 3}


def test_penalties_do_nothing_unless_listed() -> None:
    assert np.array_equal(Sampler(Sampling(repetition_penalty=5.0))._filtered(LOGITS.copy(), [1, 2]), LOGITS)


def test_bias_and_ban() -> None:
    best = int(LOGITS.argmax())
    assert Sampler(Sampling(greedy=True, banned_tokens=(best,))).pick(LOGITS, []) != best
    assert Sampler(Sampling(greedy=True, logit_bias=((5, 100.0),))).pick(LOGITS, []) == 5
    beyond = Sampling(greedy=True, logit_bias=((10**6, 9.0),), banned_tokens=(-1, 10**6))
    assert Sampler(beyond).pick(LOGITS, []) == best


def test_a_seed_repeats() -> None:
    draws = [[Sampler(Sampling(), seed).pick(LOGITS * 0.1, []) for seed in range(40)] for _ in range(2)]
    assert draws[0] == draws[1]
    assert len(set(draws[0])) > 5


def test_the_engines_defaults() -> None:
    sampling = from_config({})
    assert sampling.steps == ("topK", "tfs", "typical", "topP", "min_p", "temperature")
    assert (sampling.top_k, sampling.top_p, sampling.min_p, sampling.greedy) == (40, 0.9, 0.1, False)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"sampler_type": "greedy"}, {"greedy": True}),
        ({"mixed_samplers": ["topK", "greedy"]}, {"greedy": True}),
        ({"mixed_samplers": ["topK", "penalty", "temperature"]}, {"steps": ("penalty", "topK", "temperature")}),
        ({"sampler_type": "penalty"}, {"greedy": True, "steps": ("penalty",)}),
        ({"sampler_type": "penalty", "penalty_sampler": "temperature"}, {"greedy": False}),
        ({"sampler_type": "topK", "temperature": 3.0}, {"temperature": 0.8}),
        ({"topK": 7, "topP": 0.3}, {"top_k": 7, "top_p": 0.3}),
        ({"topK": 7, "top_k": 8}, {"top_k": 8}),
        ({"logit_bias": {"4": 1.5}}, {"logit_bias": ((4, 1.5),)}),
        ({"sampler_type": "topP", "logit_bias": {"4": 1.5}}, {"logit_bias": ()}),
    ],
)
def test_config_keys(config: dict[str, object], expected: dict[str, object]) -> None:
    sampling = from_config(config)
    assert {name: getattr(sampling, name) for name in expected} == expected


def test_what_is_not_available_is_said() -> None:
    with pytest.raises(UserError, match="ngram_factor"):
        from_config({"ngram_factor": 1.5})


@pytest.mark.parametrize(
    "keys",
    [
        {"mixed_samplers": ["topK", "temperature"], "top_k": 3, "temperature": 4.0},
        {"mixed_samplers": ["topP", "temperature"], "top_p": 0.8, "temperature": 4.0},
        {"mixed_samplers": ["min_p", "temperature"], "min_p": 0.02, "temperature": 4.0},
        {"mixed_samplers": ["typical", "temperature"], "typical": 0.3, "temperature": 3.0},
        {"mixed_samplers": ["tfs", "temperature"], "tfs_z": 0.5, "temperature": 3.0},
        {"sampler_type": "topK", "top_k": 3},
        {"sampler_type": "temperature", "temperature": 0.5},
        {"sampler_type": "topP", "top_p": 0.6, "temperature": 3.0},
        {"sampler_type": "min_p", "min_p": 0.03, "temperature": 3.0},
        {"sampler_type": "mixed", "mixed_samplers": None, "temperature": 2.0},
        {"mixed_samplers": ["penalty", "temperature"], "repetition_penalty": 3.0, "temperature": 0.5},
    ],
)
def test_the_engines_own_sampler_draws_alike(product: Path, keys: dict[str, object]) -> None:
    """First tokens of 200 generations by the engine against our probabilities for the same logits."""
    given = {name: value for name, value in keys.items() if value is not None}
    with Engine(product, given, sampled=True) as engine:
        logits = engine.prefill([5, 9, 100])
        engines = Counter(engine.generate([5, 9, 100], 1)[0] for _ in range(200))
        sampling = from_config(engine.config)
    ours = _softmax(Sampler(sampling)._filtered(logits.copy(), [5, 9, 100]), sampling.temperature)
    assert all(ours[token] > 0 for token in engines)
    distance = sum(abs(engines[token] / 200 - ours[token]) for token in range(len(ours))) / 2
    # The expected total variation of a sample of 200 from n outcomes is at most sqrt(n / (2 pi 200)).
    assert distance < 0.08 + ((ours > 0).sum() / (2 * np.pi * 200)) ** 0.5

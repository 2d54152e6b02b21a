"""generation_config.json in the engine's words. What Hugging Face would do is asked of transformers itself."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import GenerationConfig

from pipeline.runtime.check import check
from pipeline.runtime.sampling import sampling

QWEN2 = {
    "do_sample": True,
    "repetition_penalty": 1.1,
    "temperature": 0.7,
    "top_p": 0.8,
    "top_k": 20,
    "eos_token_id": [151645, 151643],
}


def keys(generation: dict[str, Any], engine: str = "3.6.1") -> tuple[dict[str, Any], list[str]]:
    notes: list[str] = []
    return sampling(generation, engine, notes.append), notes


def test_a_sampling_model() -> None:
    assert keys(QWEN2) == (
        {
            "sampler_type": "mixed",
            "mixed_samplers": ["penalty", "topK", "topP", "temperature"],
            "temperature": 0.7,
            "repetition_penalty": 1.1,
            "top_k": 20,
            "top_p": 0.8,
        },
        [],
    )


@pytest.mark.parametrize("generation", [{}, {"do_sample": False, "temperature": 0.6}, {"do_sample": None}])
def test_without_do_sample_hugging_face_is_greedy_and_so_are_we(generation: dict[str, Any]) -> None:
    assert not GenerationConfig(**generation).do_sample
    assert keys(generation)[0] == {"sampler_type": "greedy"}


def test_greedy_with_a_penalty() -> None:
    found, _ = keys({"repetition_penalty": 1.2})
    assert found == {"sampler_type": "mixed", "mixed_samplers": ["penalty", "greedy"], "repetition_penalty": 1.2}


def test_transformers_own_top_k_is_written_out() -> None:
    """A sampling model without top_k samples from 50 tokens in transformers, from 40 in the engine."""
    found, _ = keys({"do_sample": True, "temperature": 0.6, "top_p": 0.95})
    assert found["top_k"] == 50
    assert found["mixed_samplers"] == ["topK", "topP", "temperature"]


def test_steps_that_do_nothing_are_left_out() -> None:
    found, _ = keys({"do_sample": True, "top_k": 0, "top_p": 1.0, "repetition_penalty": 1.0})
    assert found == {"sampler_type": "mixed", "mixed_samplers": ["temperature"], "temperature": 1.0}


def test_temperature_zero_is_greedy() -> None:
    """The engine would divide by it."""
    assert keys({"do_sample": True, "temperature": 0.0})[0] == {"sampler_type": "greedy"}


def test_min_p_means_something_else_to_the_engine_and_is_said() -> None:
    found, notes = keys({"do_sample": True, "min_p": 0.05})
    assert "min_p" not in found
    assert len(notes) == 1 and "min_p 0.05" in notes[0]


def test_old_engines_get_the_old_names() -> None:
    found, _ = keys(QWEN2, "3.4.0")
    assert found["topK"] == 20 and found["topP"] == 0.8 and found["penalty"] == 1.1
    assert check(found, "3.4.0") == []


@pytest.mark.parametrize("generation", [QWEN2, {}, {"do_sample": True}, {"repetition_penalty": 1.3}])
@pytest.mark.parametrize("engine", ["3.4.0", "3.5.0", "3.6.1"])
def test_whatever_comes_out_is_valid_for_the_engine(generation: dict[str, Any], engine: str) -> None:
    assert check(keys(generation, engine)[0], engine) == []

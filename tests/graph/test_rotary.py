"""RoPE tables against transformers' own rotary modules, and the RoPE functions of real modelling modules."""

from __future__ import annotations

import importlib
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.errors import UserError
from pipeline.graph.passes.dead import drop_dead
from pipeline.graph.rope import _probe, patched_rope
from pipeline.graph.rotary import STEP, RotaryTable
from tests.families import FAMILIES
from tests.graph import coverage
from tests.graph.evaluate import run, tracer_at
from tests.tiny_models import tiny_config

coverage.quiet()

FAR = [0, 1, STEP - 1, STEP, STEP + 1, 2047, 2048, 4097, 65535, 131071]


def _rotary(family: str, **overrides: Any) -> torch.nn.Module:
    config = tiny_config(family, **overrides)
    module = importlib.import_module(
        f"transformers.models.{FAMILIES[family]['type']}.modeling_{FAMILIES[family]['type']}"
    )
    kind = next(value for name, value in vars(module).items() if name.endswith("RotaryEmbedding"))
    rotary: torch.nn.Module = kind(config=config)
    return rotary


def _tabulated(rotary: torch.nn.Module, positions: list[int], folder: Path) -> list[Any]:
    tracer = tracer_at(len(positions))
    ids = tracer.new_input("x0", (1, len(positions)), torch.int64)
    with tracer:
        cosine, sine = RotaryTable(rotary, 131072)(torch.zeros(1, 1, 1), ids)
    tracer.graph.outputs |= {"cos": tracer.value(cosine), "sin": tracer.value(sine)}
    drop_dead(tracer.graph)
    return run(tracer.graph, folder, [torch.tensor([positions])])


@pytest.mark.parametrize("family", ["llama", "llama_linear", "llama_llama3", "llama_yarn", "glm", "cohere", "gpt_neox"])
def test_tables_are_the_modules_own(family: str, tmp_path: Path) -> None:
    rotary = _rotary(family)
    got = _tabulated(rotary, FAR, tmp_path)
    expected = rotary(torch.zeros(1, 1, 1), torch.tensor([FAR]))
    for ours, theirs in zip(got, expected, strict=True):
        assert ours.shape == tuple(theirs.shape)
        # transformers multiplies in float32, where a position of 131,071 leaves 2⁻⁷ of an angle
        np.testing.assert_allclose(ours[:, :8], theirs[:, :8].numpy(), atol=1e-3)


def test_tables_are_exact_far_out(tmp_path: Path) -> None:
    rotary = _rotary("llama")
    frequencies = rotary.inv_freq.double()  # type: ignore[operator]
    cosine, sine = _tabulated(rotary, FAR, tmp_path)
    angles = torch.tensor(FAR, dtype=torch.float64)[:, None] * frequencies
    np.testing.assert_allclose(cosine[0, :, : len(frequencies)], angles.cos(), atol=3e-7)
    np.testing.assert_allclose(sine[0, :, len(frequencies) :], angles.sin(), atol=3e-7)


def test_scaled_tables_carry_the_scale(tmp_path: Path) -> None:
    rotary = _rotary("llama_yarn")
    scale = float(rotary.attention_scaling)  # type: ignore[arg-type]
    assert scale > 1.1
    cosine, sine = _tabulated(rotary, FAR, tmp_path)
    np.testing.assert_allclose(np.hypot(cosine, sine), scale, atol=1e-6)


@pytest.mark.parametrize("family", ["llama_dynamic", "llama_longrope", "phi3_longrope"])
def test_types_that_change_with_the_length_say_their_limit(family: str) -> None:
    tracer = tracer_at(4)
    with tracer:
        RotaryTable(_rotary(family), 512)(torch.zeros(1, 1, 1), tracer.new_input("x0", (1, 4), torch.int64))
    limit = 512 if family == "llama_dynamic" else 128
    assert tracer.position_limit == limit
    assert tracer.notes[0].endswith(f"RoPE as it is for sequences of up to {limit} tokens")


def test_an_unknown_layout_is_refused() -> None:
    class Odd(torch.nn.Module):
        inv_freq = torch.tensor([1.0, 0.1])

        def forward(self, x: torch.Tensor, position_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return torch.full((1, 1, 4), 0.3), torch.full((1, 1, 4), 0.3)

    tracer = tracer_at(4)
    with tracer, pytest.raises(UserError, match="known layout"):
        RotaryTable(Odd(), 512)(torch.zeros(1, 1, 1), tracer.new_input("x0", (1, 4), torch.int64))


ROTATIONS = {
    ("llama", "apply_rotary_pos_emb", "full"): "half",
    ("phi", "apply_rotary_pos_emb", "full"): "half",
    ("glm", "apply_rotary_pos_emb", "full"): "interleaved",
    ("cohere", "apply_rotary_pos_emb", "full"): "interleaved",
    ("ernie4_5", "apply_rotary_pos_emb", "full"): "interleaved",
    ("gpt_oss", "apply_rotary_pos_emb", "single"): "half",
    ("deepseek_v3", "apply_rotary_pos_emb_interleave", "full"): "interleaved_to_half",
    ("deepseek_v2", "apply_rotary_emb", "phasor"): "interleaved",
    ("llama4", "apply_rotary_emb", "phasor"): None,  # takes heads after the sequence
}


@pytest.mark.parametrize("case", ROTATIONS, ids=" ".join)
def test_rotations_of_real_functions_are_recognised(case: tuple[str, str, str]) -> None:
    family, name, layout = case
    module = importlib.import_module(f"transformers.models.{family}.modeling_{family}")
    assert _probe(getattr(module, name), 32, 32, layout) == ROTATIONS[case]


def test_a_function_that_turns_the_wrong_way_is_not_recognised() -> None:
    module = importlib.import_module("transformers.models.llama.modeling_llama")

    def backwards(q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> Any:
        return module.apply_rotary_pos_emb(q, k, cos, -sin)

    assert _probe(backwards, 32, 32, "full") is None
    assert _probe(lambda q, k, cos, sin: (q, k), 32, 32, "full") is None


def test_modules_get_their_own_function_back() -> None:
    name = "transformers.models.llama.modeling_llama"
    module = importlib.import_module(name)
    before = module.apply_rotary_pos_emb
    with pytest.raises(ZeroDivisionError), patched_rope([name]):
        assert module.apply_rotary_pos_emb is not before
        math.fmod(1, 1 / 0)
    assert module.apply_rotary_pos_emb is before

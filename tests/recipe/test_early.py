"""Rules and budgets that cannot be are refused from the headers alone, and nothing else is."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    PreTrainedModel,
    Qwen2MoeConfig,
    Qwen2MoeForCausalLM,
)

from pipeline.errors import UserError
from pipeline.recipe.compose import compose
from pipeline.recipe.conf import SHIPPED
from pipeline.recipe.early import refuse_impossible
from pipeline.recipe.schema import Recipe
from pipeline.weights.allocation import Choice, allocate
from pipeline.weights.layout import Layout, Linear
from pipeline.weights.precision import resolve
from pipeline.weights.rules import matching_rules
from pipeline.weights.sizes import candidates, stored_bytes

TINY = {
    "vocab_size": 96, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "pad_token_id": 0,
}  # fmt: skip


def recipe(*overrides: str) -> Recipe:
    (composed,) = compose(overrides, [SHIPPED], Path("/w"))
    return composed.recipe


def local(folder: Path, *overrides: str) -> Recipe:
    return recipe("model=local", f"model.path={folder}", *overrides)


def message(asked: Recipe, store: Path) -> str:
    with pytest.raises(UserError) as error:
        refuse_impossible(asked, store)
    assert error.value.exit_code == 3 and "\n" not in str(error.value)
    return str(error.value)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llama")
    LlamaForCausalLM(LlamaConfig(**TINY, tie_word_embeddings=False)).save_pretrained(folder)
    return folder


def exact_minimum(model: PreTrainedModel, asked: Recipe) -> int:
    """What the solver says, of the linears that the model has in transformers."""
    modules = {name: module for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    linears = [Linear(name, module.out_features, module.in_features, ()) for name, module in modules.items()]
    quant = asdict(asked.quant)
    fixed = resolve(Layout(tuple(linears)), quant)
    ruled = matching_rules(list(modules), quant["rules"])
    table: dict[str, Sequence[Choice]] = {
        linear.name: [
            Choice(one.bits, one.block, stored_bytes(linear.out_features, linear.in_features, one), 0.0)
            for one in candidates(linear.in_features, asked.target.fast_bits, quant["symmetric"], quant["scale_bits"])
        ]
        for linear in linears
        if linear.name != "lm_head" and linear.name not in ruled
    }
    rest = sum(
        stored_bytes(one.out_features, one.in_features, fixed[one.name]) for one in linears if one.name not in table
    )
    with pytest.raises(UserError) as error:
        allocate(table, 1, rest, None)
    return _bytes(str(error.value))


def _bytes(told: str) -> int:
    return int(re.findall(r"[\d,]{4,}", told)[-1].replace(",", ""))


SMOLLM2 = LlamaConfig(
    vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
    num_key_value_heads=3, tie_word_embeddings=True,
)  # fmt: skip


@pytest.mark.parametrize(
    "overrides",
    [[], ["quant.lm_bits=4", "quant.symmetric=true"], ["quant.rules=[{pattern: 'layers\\.1\\.', bits: 8}]"]],
)
def test_the_minimum_of_smollm2_is_the_solvers(overrides: list[str], tmp_path: Path) -> None:
    with torch.device("meta"):
        model = LlamaForCausalLM(SMOLLM2)
    asked = recipe("model=smollm2-135m", "quant=auto", "quant.target_bytes=1000000", *overrides)
    least = _bytes(message(asked, tmp_path))
    assert least == exact_minimum(model, asked)
    asked.quant.target_bytes = least
    refuse_impossible(asked, tmp_path)
    asked.quant.target_bytes = least - 1
    assert f"quant.target_bytes={least - 1:,} is below the least that this model can take, {least:,} bytes" in message(
        asked, tmp_path
    )


def test_bits_per_weight_are_answered_in_bits_per_weight(llama: Path, tmp_path: Path) -> None:
    told = message(local(llama, "quant=auto", "quant.target_bpw=3"), tmp_path)
    least = float(re.findall(r"take, ([\d.]+) bits a weight", told)[0])
    refuse_impossible(local(llama, "quant=auto", f"quant.target_bpw={least}"), tmp_path)
    message(local(llama, "quant=auto", f"quant.target_bpw={least - 0.01}"), tmp_path)


@pytest.mark.parametrize("rule", ["v_proj$", "^model.layers.0.", "lm_head", r"mlp\..*_proj", "layers.1.self_attn"])
def test_rules_that_match_pass(rule: str, llama: Path, tmp_path: Path) -> None:
    refuse_impossible(local(llama, f"quant.rules=[{{pattern: '{rule}', bits: 8}}]"), tmp_path)


@pytest.mark.parametrize(
    ("rule", "guess"),
    [
        (r"v_porj$", " Did you mean 'v_proj'?"),
        (r"mlp\.gate_porj", " Did you mean 'mlp.gate_proj'?"),
        (r"layers\.2\.", ""),
        ("input_layernorm", ""),
    ],
)
def test_a_rule_that_matches_nothing_is_named(rule: str, guess: str, llama: Path, tmp_path: Path) -> None:
    told = message(local(llama, f"quant.rules=[{{pattern: '{rule}', bits: 8}}]"), tmp_path)
    stop = "." if guess else ""
    assert told.startswith(f"the rule '{rule}' matches no linear of this model{stop}{guess} → names look like")
    assert "model.layers.0.mlp.down_proj" in told


@pytest.mark.parametrize("rule", [r"qkv_proj\.2$", r"gate_up_proj\.0", r"^model\.layers\.1\.self_attn\.qkv_proj\.0$"])
def test_rules_for_a_piece_of_a_fused_linear_pass(rule: str, tmp_path: Path) -> None:
    Phi3ForCausalLM(Phi3Config(**TINY)).save_pretrained(tmp_path / "phi")
    rules = f"quant.rules=[{{pattern: '{rule}', bits: 8}}]"
    refuse_impossible(local(tmp_path / "phi", rules), tmp_path)
    refuse_impossible(local(tmp_path / "phi", rules, "quant.target_bytes=1"), tmp_path)  # which piece has how many rows
    message(local(tmp_path / "phi", "quant=auto", "quant.target_bytes=1"), tmp_path)


def save(folder: Path, shapes: Mapping[str, Sequence[int]]) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "llama", "num_hidden_layers": 1}')
    save_file({name: np.zeros(shape, np.float16) for name, shape in shapes.items()}, folder / "model.safetensors")
    return folder


def test_what_is_not_certain_is_left_to_the_weights(tmp_path: Path) -> None:
    """Experts, unusual names, a model that is not here, a broken file: none of them is refused."""
    experts = Qwen2MoeConfig(**TINY, num_experts=2, moe_intermediate_size=64, shared_expert_intermediate_size=64)
    Qwen2MoeForCausalLM(experts).save_pretrained(tmp_path / "moe")
    odd = save(tmp_path / "odd", {"model.layers.0.mixer.in_proj.weight": (64, 64)})
    broken = save(tmp_path / "broken", {"model.layers.0.mlp.up_proj.weight": (64, 64)})
    (broken / "model.safetensors").write_bytes(b"\xff" * 20)
    wrong = ["quant.rules=[{pattern: nothing, algorithm: mse}]", "quant.target_bytes=1", "quant.algorithm=mse"]
    for folder in (tmp_path / "moe", odd, broken):
        refuse_impossible(local(folder, *wrong), tmp_path)
    refuse_impossible(recipe("model=qwen2.5-7b", *wrong), tmp_path)


def test_names_with_a_prefix_of_their_own_are_found(tmp_path: Path) -> None:
    """A decoder that lies in a vision model: transformers names it otherwise than its files do."""
    names = ["language_model.model.layers.0.mlp.up_proj", "vision_tower.blocks.0.attn.qkv", "language_model.lm_head"]
    folder = save(tmp_path / "vision", {f"{name}.weight": (64, 64) for name in names})
    for rule in ("^model.language_model.layers.0.mlp", "^lm_head", "up_proj$"):
        refuse_impossible(local(folder, f"quant.rules=[{{pattern: '{rule}', bits: 8}}]"), tmp_path)
    message(local(folder, "quant.rules=[{pattern: attn.qkv, bits: 8}]"), tmp_path)


def test_no_file_is_opened_without_rule_or_budget(tmp_path: Path) -> None:
    refuse_impossible(local(tmp_path / "absent"), tmp_path)
    assert list(tmp_path.iterdir()) == []

"""Shrunk configs keep the architecture: which layers stay, which ratios stay, and that transformers can run them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from pipeline.verify.shrink import (
    PARAMETERS,
    VOCABULARY,
    WINDOW,
    count_parameters,
    representative_layers,
    shrink,
)

BIG: dict[str, dict[str, Any]] = {
    "qwen2": {"vocab_size": 152064, "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28,
              "num_attention_heads": 28, "num_key_value_heads": 4, "eos_token_id": 151645},
    "qwen3": {"vocab_size": 151936, "hidden_size": 4096, "num_attention_heads": 32, "num_key_value_heads": 8,
              "head_dim": 128, "num_hidden_layers": 36},
    "qwen3_moe": {"hidden_size": 2048, "num_experts": 128, "num_experts_per_tok": 8, "num_hidden_layers": 48,
                  "moe_intermediate_size": 768, "num_attention_heads": 32, "num_key_value_heads": 4, "head_dim": 128},
    "mixtral": {},
    "gemma2": {},
    "gemma3_text": {"num_hidden_layers": 26},
    "mistral": {"sliding_window": 4096},
    "smollm3": {},
    "phi3": {},
    "deepseek_v3": {},
    "gpt2": {},
    "lfm2": {},
    "lfm2_moe": {"num_hidden_layers": 12, "layer_types": ["conv", "conv", "full_attention"] * 4},
    "qwen3_next": {},
    "qwen3_5_text": {},
    "olmo_hybrid": {},
}  # fmt: skip


def config_of(family: str) -> Any:
    return AutoConfig.for_model(family, **BIG[family])


@pytest.mark.parametrize("family", sorted(BIG))
def test_a_big_config_becomes_a_model_that_runs(family: str) -> None:
    small = shrink(config_of(family)).config
    assert count_parameters(small) < 1.2 * PARAMETERS
    assert 2 <= small.num_hidden_layers <= 4
    assert small.vocab_size <= VOCABULARY
    # Not on the meta device, where routed experts cannot run.
    model = AutoModelForCausalLM.from_config(small, experts_implementation="eager").eval()
    with torch.inference_mode():
        logits = model(input_ids=torch.zeros(1, 5, dtype=torch.long)).logits
    assert logits.shape == (1, 5, small.vocab_size)


@pytest.mark.parametrize("family", ["qwen2", "qwen3", "qwen3_moe", "mistral", "gemma2"])
def test_head_size_and_the_ratio_of_query_to_key_heads_stay(family: str) -> None:
    config = config_of(family)
    small = shrink(config).config

    def shape(one: Any) -> tuple[int, int]:
        size = getattr(one, "head_dim", None) or one.hidden_size // one.num_attention_heads
        return size, one.num_attention_heads // one.num_key_value_heads

    assert shape(small) == shape(config)


def test_a_small_model_keeps_its_widths() -> None:
    config = AutoConfig.for_model("llama", hidden_size=576, intermediate_size=1536, num_hidden_layers=30,
                                  num_attention_heads=9, num_key_value_heads=3, vocab_size=49152)  # fmt: skip
    shrunk = shrink(config)
    assert not shrunk.scaled
    assert (shrunk.config.hidden_size, shrunk.config.intermediate_size) == (576, 1536)
    assert shrunk.config.num_attention_heads == 9


def test_the_original_config_is_not_touched() -> None:
    config = config_of("gemma3_text")
    before = config.to_dict()
    shrink(config)
    assert config.to_dict() == before


def test_both_kinds_of_layers_of_gemma3_are_kept() -> None:
    small = shrink(config_of("gemma3_text"))
    assert small.layers == [0, 5]
    assert small.config.layer_types == ["sliding_attention", "full_attention"]
    assert small.config.sliding_window == WINDOW


def test_layers_without_positions_are_kept() -> None:
    small = shrink(config_of("smollm3"))
    assert sorted(small.config.no_rope_layers) == [0, 1]


def test_dense_and_sparse_layers_of_deepseek_are_kept() -> None:
    config = AutoConfig.for_model("deepseek_v3", first_k_dense_replace=3)
    small = shrink(config)
    assert small.layers == [0, 3]
    assert small.config.first_k_dense_replace == 1


def test_layers_that_are_listed_by_number_are_kept_by_number() -> None:
    config = AutoConfig.for_model("qwen2_moe", num_hidden_layers=12, mlp_only_layers=[0, 1, 2], num_experts=8)
    small = shrink(config)
    assert small.layers == [0, 3]
    assert small.config.mlp_only_layers == [0]


def test_a_uniform_model_keeps_two_layers() -> None:
    assert representative_layers(config_of("qwen3")) == [0, 1]


def test_a_model_of_one_layer_keeps_it() -> None:
    config = AutoConfig.for_model("llama", num_hidden_layers=1, hidden_size=64, num_attention_heads=2)
    assert shrink(config).layers == [0]


def test_special_tokens_stay_within_the_vocabulary() -> None:
    small = shrink(config_of("qwen2")).config
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        assert getattr(small, name, None) is None or getattr(small, name) < small.vocab_size


@pytest.mark.parametrize(
    ("family", "kinds"),
    [
        ("lfm2_moe", {"conv", "full_attention"}),
        ("qwen3_5_text", {"linear_attention", "full_attention"}),
        ("olmo_hybrid", {"linear_attention", "full_attention"}),
    ],
)
def test_layers_with_a_state_and_with_attention_are_kept(family: str, kinds: set[str]) -> None:
    assert set(shrink(config_of(family)).config.layer_types) == kinds


def test_dense_and_sparse_layers_of_lfm2_are_kept() -> None:
    small = shrink(AutoConfig.for_model("lfm2_moe", num_hidden_layers=6, layer_types=["conv"] * 6, num_dense_layers=2))
    assert small.layers == [0, 2]
    assert small.config.num_dense_layers == 1

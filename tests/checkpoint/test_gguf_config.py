"""config.json and generation_config.json from metadata, against transformers' own configurations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig

from pipeline.checkpoint.gguf import open_gguf
from pipeline.checkpoint.gguf_config import Metadata, config_from_gguf, generation_config_from_gguf, shortest
from pipeline.checkpoint.gguf_header import read_header
from pipeline.errors import StageFailed
from tests.checkpoint.gguf_files import FAMILIES, tiny_model, write_model

# What decides the numbers that a model computes; the rest of a configuration does not.
COMPARED = (
    "model_type", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
    "head_dim", "vocab_size", "max_position_embeddings", "rms_norm_eps", "norm_epsilon", "rope_parameters",
    "tie_word_embeddings", "hidden_act", "hidden_activation", "attention_bias", "mlp_bias", "sliding_window",
    "layer_types", "query_pre_attn_scalar", "attn_logit_softcapping", "final_logit_softcapping", "num_experts",
    "num_experts_per_tok", "moe_intermediate_size", "norm_topk_prob", "shared_expert_intermediate_size",
    "embedding_multiplier", "residual_multiplier", "attention_multiplier", "logits_scaling", "layer_norm_eps",
    "use_qkv_bias", "use_parallel_residual", "attention_out_bias", "bos_token_id", "eos_token_id", "pad_token_id",
    "no_rope_layers",
)  # fmt: skip


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_configuration_comes_back(family: str, tmp_path: Path) -> None:
    model = tiny_model(family)
    path = tmp_path / "m.gguf"
    write_model(path, family, model)
    shapes = {name: tensor.shape for name, tensor in open_gguf([path]).items()}
    ours = AutoConfig.for_model(**config_from_gguf(read_header(path).metadata, shapes)).to_dict()
    theirs = model.config.to_dict()
    theirs["head_dim"] = theirs.get("head_dim") or theirs["hidden_size"] // theirs["num_attention_heads"]
    assert {key: ours.get(key) for key in COMPARED} == {key: theirs.get(key) for key in COMPARED}
    assert ours["architectures"] == [type(model).__name__]


def test_smollm2(smollm2: Path) -> None:
    """The published configuration of SmolLM2-135M-Instruct, field by field."""
    shapes = {name: tensor.shape for name, tensor in open_gguf([smollm2]).items()}
    config = config_from_gguf(read_header(smollm2).metadata, shapes)
    published = {
        "architectures": ["LlamaForCausalLM"], "attention_bias": False, "bos_token_id": 1, "eos_token_id": 2,
        "hidden_size": 576, "intermediate_size": 1536, "max_position_embeddings": 8192, "mlp_bias": False,
        "model_type": "llama", "num_attention_heads": 9, "num_hidden_layers": 30, "num_key_value_heads": 3,
        "pad_token_id": 2, "rms_norm_eps": 1e-05, "tie_word_embeddings": True, "vocab_size": 49152}  # fmt: skip
    assert {key: config[key] for key in published} == published
    assert config["rope_parameters"] == {"rope_type": "default", "rope_theta": 100000.0}


def test_floats_are_what_a_person_wrote() -> None:
    assert repr(shortest(9.999999747378752e-06)) == "1e-05"
    assert shortest(1000000.0) == 1000000.0 and shortest(3) == 3 and shortest(None) is None


LLAMA = {
    "general.architecture": "llama", "llama.embedding_length": 64, "llama.block_count": 2,
    "llama.context_length": 128, "llama.attention.head_count": 4, "llama.attention.head_count_kv": 2,
    "llama.feed_forward_length": 96, "llama.attention.layer_norm_rms_epsilon": 1e-5}  # fmt: skip
SHAPES: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (100, 64)}


@pytest.mark.parametrize("key", sorted(set(LLAMA) - {"general.architecture"}))
def test_nothing_needed_is_invented(key: str) -> None:
    with pytest.raises(StageFailed, match=key):
        config_from_gguf({name: value for name, value in LLAMA.items() if name != key}, SHAPES)


def test_per_layer_values() -> None:
    same = config_from_gguf({**LLAMA, "llama.attention.head_count_kv": [2, 2]}, SHAPES)
    assert same["num_key_value_heads"] == 2
    with pytest.raises(StageFailed, match="differs from layer to layer"):
        config_from_gguf({**LLAMA, "llama.attention.head_count_kv": [2, 4]}, SHAPES)


def test_rope_scaling() -> None:
    linear = config_from_gguf({**LLAMA, "llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0}, SHAPES)
    assert linear["rope_parameters"] == {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}
    with pytest.raises(StageFailed, match="longrope"):
        config_from_gguf({**LLAMA, "llama.rope.scaling.type": "longrope"}, SHAPES)


def test_heads_of_two_sizes() -> None:
    with pytest.raises(StageFailed, match="different head sizes"):
        config_from_gguf({**LLAMA, "llama.attention.key_length": 16, "llama.attention.value_length": 8}, SHAPES)


def test_metadata_looks_under_its_architecture() -> None:
    metadata = Metadata({"general.architecture": "qwen2", "qwen2.x": [1, 1], "llama.x": 5})
    assert metadata.get("x") == [1, 1] and metadata.need("x") == 1 and metadata.get("y", 7) == 7


def vocabulary(tokens: dict[str, int], **changes: Any) -> dict[str, Any]:
    return {"tokenizer.ggml.tokens": list(tokens), "tokenizer.ggml.token_type": list(tokens.values()), **changes}


def test_every_turn_end_stops_the_answer() -> None:
    values = vocabulary({"<|endoftext|>": 3, "a": 1, "<|im_end|>": 3}, **{"tokenizer.ggml.eos_token_id": 0})
    assert generation_config_from_gguf(values)["eos_token_id"] == [0, 2]


def test_text_that_only_looks_like_a_turn_end_does_not() -> None:
    values = vocabulary({"</s>": 3, "<|im_end|>": 1}, **{"tokenizer.ggml.eos_token_id": 0})
    assert generation_config_from_gguf(values)["eos_token_id"] == 0


def test_declared_end_of_turn() -> None:
    values = vocabulary({"a": 1}, **{"tokenizer.ggml.eos_token_id": 9, "tokenizer.ggml.eot_token_id": 7})
    assert generation_config_from_gguf(values)["eos_token_id"] == [9, 7]

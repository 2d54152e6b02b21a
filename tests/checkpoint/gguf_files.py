"""GGUF files for tests, by llama.cpp's own file writer, from real transformers models.

Names come from gguf's tensor map; what the values go through (permuted q/k rows, Gemma's norms plus one, stacked
experts) follows `modify_tensors` of llama.cpp's conversion script. llama.cpp itself (llama-cpp-python 0.3.36) loads
these files and gives the models' logits within 2e-3, its cache being float16: reader and writer do not merely share a
mistake.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

SMALL = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
         "num_key_value_heads": 2, "vocab_size": 128, "max_position_embeddings": 512}  # fmt: skip
HEAD = {"head_dim": 16}
MOE = {"moe_intermediate_size": 32, "num_experts": 4, "num_experts_per_tok": 2}
IDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
# GGUF's architecture → (transformers' model type, configuration)
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {"rope_theta": 50000.0, "tie_word_embeddings": True}),
    "qwen2": ("qwen2", {"rope_theta": 1000000.0}),
    "qwen3": ("qwen3", HEAD),
    "arcee": ("arcee", {}),
    "gemma": ("gemma", HEAD),
    "granite": (
        "granite",
        {"embedding_multiplier": 3.0, "residual_multiplier": 0.5, "attention_multiplier": 0.3, "logits_scaling": 2.0},
    ),
    "olmo2": ("olmo2", {}),
    "seed_oss": ("seed_oss", HEAD),
    "stablelm": ("stablelm", {"use_qkv_bias": True, "partial_rotary_factor": 0.5}),
    "gemma2": ("gemma2", {**HEAD, "sliding_window": 8, "query_pre_attn_scalar": 16, "attn_implementation": "eager"}),
    "gemma3": ("gemma3_text", {**HEAD, "num_hidden_layers": 7, "sliding_window": 8, "query_pre_attn_scalar": 16}),
    "phi3": ("phi3", {"original_max_position_embeddings": 512}),
    "qwen2moe": ("qwen2_moe", {**MOE, "shared_expert_intermediate_size": 48}),
    "qwen3moe": ("qwen3_moe", {**MOE, **HEAD, "norm_topk_prob": True}),
    "smollm3": ("smollm3", {"num_hidden_layers": 4}),
    "starcoder2": ("starcoder2", {}),
}
PERMUTED = ("llama", "smollm3", "arcee", "granite")


def tiny_model(family: str) -> PreTrainedModel:
    """A model with random weights of the family, every parameter (norms and biases too) away from its initial value."""
    model_type, changes = FAMILIES[family]
    torch.manual_seed(1)
    torch.set_num_threads(1)
    config = AutoConfig.for_model(model_type, **{**SMALL, **IDS, **changes})
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter += torch.randn_like(parameter) * (0.1 if parameter.ndim == 1 else 0.05)
            assert torch.isfinite(parameter).all(), name
    return model


def write_model(path: Path, family: str, model: PreTrainedModel, kind: str = "F32", split: int = 0) -> None:
    """Write `model` as one GGUF of `family`, matrices stored as `kind`; with `split`, tensors per part of a split."""
    options = {"split_max_tensors": split, "split_max_size": 0} if split else {}
    writer = gguf.GGUFWriter(path, family, **options)
    write_metadata(writer, model.config)
    for name, values in stored_tensors(family, model).items():
        quantised = values.ndim > 1 and kind != "F32" and not name.endswith("ffn_gate_inp.weight")
        if quantised:
            number = gguf.GGMLQuantizationType[kind]
            writer.add_tensor(name, gguf.quants.quantize(values, number), raw_dtype=number)
        else:
            writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_metadata(writer: gguf.GGUFWriter, config: Any) -> None:
    """The hyperparameters under llama.cpp's keys."""
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    rope = config.rope_parameters
    writer.add_rope_freq_base(rope.get("full_attention", rope)["rope_theta"])
    if layer_norm := getattr(config, "norm_epsilon", None) or getattr(config, "layer_norm_eps", None):
        writer.add_layer_norm_eps(layer_norm)
    else:
        writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    if head_dim := getattr(config, "head_dim", None):
        writer.add_key_length(head_dim)
        writer.add_value_length(head_dim)
    if config.model_type in ("gemma2", "gemma3_text"):
        writer.add_sliding_window(config.sliding_window)
    if config.model_type == "gemma2":
        writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
        writer.add_final_logit_softcapping(config.final_logit_softcapping)
    if config.model_type == "granite":
        writer.add_embedding_scale(config.embedding_multiplier)
        writer.add_residual_scale(config.residual_multiplier)
        writer.add_attention_scale(config.attention_multiplier)
        writer.add_logit_scale(config.logits_scaling)
    if config.model_type == "stablelm":
        writer.add_rope_dimension_count(int(config.hidden_size // config.num_attention_heads * 0.5))
        writer.add_parallel_residual(config.use_parallel_residual)
    if experts := getattr(config, "num_experts", 0):
        writer.add_expert_count(experts)
        writer.add_expert_used_count(config.num_experts_per_tok)
        writer.add_expert_feed_forward_length(config.moe_intermediate_size)
        if hasattr(config, "shared_expert_intermediate_size"):
            writer.add_expert_shared_feed_forward_length(config.shared_expert_intermediate_size)
    writer.add_bos_token_id(config.bos_token_id)
    writer.add_eos_token_id(config.eos_token_id)
    writer.add_pad_token_id(config.pad_token_id)


def stored_tensors(family: str, model: PreTrainedModel) -> dict[str, np.ndarray]:
    """The model's tensors under GGUF names, with the values that llama.cpp's converter would store."""
    config = model.config
    architecture = next(number for number, name in gguf.MODEL_ARCH_NAMES.items() if name == family)
    names = gguf.get_tensor_name_map(architecture, config.num_hidden_layers)
    stored = {}
    for name, parameter in model.state_dict().items():
        values = parameter.float().numpy()
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        if name.endswith("experts.gate_up_proj"):  # transformers 5 keeps both stacked; GGUF has one stack for each
            layer = name.split(".")[2]
            stored[f"blk.{layer}.ffn_gate_exps.weight"], stored[f"blk.{layer}.ffn_up_exps.weight"] = (
                np.ascontiguousarray(half) for half in np.split(values, 2, axis=1))  # fmt: skip
            continue
        if name.endswith("experts.down_proj"):
            name += ".weight"
        key = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert key is not None, name
        stored[key] = converted(family, key, values, config)
    return stored


def converted(family: str, key: str, values: np.ndarray, config: Any) -> np.ndarray:
    """What the converter does to one tensor's values."""
    if family in PERMUTED and ".attn_q." in key:
        return permute(values, config.num_attention_heads)
    if family in PERMUTED and ".attn_k." in key:
        return permute(values, config.num_key_value_heads)
    if family in ("gemma", "gemma2", "gemma3") and key.endswith("norm.weight"):
        return values + np.float32(1)
    return values[0] if key.endswith("ffn_gate_inp_shexp.weight") else values


def permute(values: np.ndarray, heads: int) -> np.ndarray:
    """LlamaModel.permute of llama.cpp's converter: half rotation's rows to interleaved rotation's."""
    halves = values.reshape(heads, 2, values.shape[0] // heads // 2, *values.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(values.shape))

"""A Hugging Face config.json and generation_config.json from a GGUF's metadata and its tensors' names and shapes.

Key names: ggml's docs/gguf.md, "LLM"; field names: transformers' configuration classes (version 5, `rope_parameters`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from pipeline.checkpoint.gguf_names import Architecture, architecture
from pipeline.checkpoint.gguf_rope import F32, with_table
from pipeline.errors import StageFailed

REQUIRED = {
    "embedding_length": "hidden_size",
    "block_count": "num_hidden_layers",
    "context_length": "max_position_embeddings",
    "attention.head_count": "num_attention_heads",
}
# Tokens that end a turn, by the names that their families give them; a GGUF's eos_token_id may name only one of two.
TURN_ENDS = ("<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|end|>", "<|endoftext|>", "<|eom_id|>", "<|end_of_text|>")
CONTROL = 3
# Families that use LayerNorm, and their field for its epsilon; all others use RMSNorm.
LAYER_NORM = {"starcoder2": "norm_epsilon", "stablelm": "layer_norm_eps"}
BIASED = ("llama", "qwen3", "smollm3", "qwen3_moe", "arcee", "granite", "olmo2")


class Metadata:
    """GGUF metadata of one architecture: `get("attention.head_count")` looks under the architecture's own prefix."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.values = values
        self.arch = str(values.get("general.architecture"))

    def get(self, key: str, default: Any = None) -> Any:
        """A value as written; float32 values come as the shortest decimal that means the same float32."""
        return shortest(self.values.get(f"{self.arch}.{key}", default))

    def need(self, key: str) -> Any:
        """Like `get`, but StageFailed when the file does not say it, or says it per layer."""
        value = self.get(key)
        if value is None:
            raise StageFailed(f"the GGUF file does not say {self.arch}.{key}", "use the model's Hugging Face folder")
        if isinstance(value, list):
            if len(set(value)) != 1:
                raise StageFailed(
                    f"{self.arch}.{key} differs from layer to layer, which has no place in a config.json",
                    "use the model's Hugging Face folder",
                )
            return value[0]
        return value


def shortest(value: Any) -> Any:
    """9.999999747378752e-06 is how float32 spells 1e-05: give back the decimal that a person wrote."""
    return float(str(np.float32(value))) if isinstance(value, float) else value


def config_from_gguf(
    values: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], tables: Mapping[str, F32] | None = None
) -> dict[str, Any]:
    """config.json as a dict. `shapes`: the model's tensors under their Hugging Face names. `tables`: its RoPE tables.

    Raises StageFailed when the file leaves something out that no default may stand for.
    """
    metadata = Metadata(values)
    table = architecture(metadata.arch)
    config: dict[str, Any] = {"architectures": [table.class_name], "model_type": table.model_type, "dtype": "float32"}
    config |= {field: metadata.need(key) for key, field in REQUIRED.items()}
    config["num_key_value_heads"] = metadata.need("attention.head_count_kv")
    config["vocab_size"] = shapes["model.embed_tokens.weight"][0]
    config["tie_word_embeddings"] = "lm_head.weight" not in shapes
    config |= _head_dim(metadata, config) | _norm(metadata, table) | _feed_forward(metadata) | _biases(shapes, table)
    config["rope_parameters"] = with_table(_rope(metadata), tables or {}, config["head_dim"])
    if table.model_type == "stablelm":
        config["use_qkv_bias"] = "model.layers.0.self_attn.q_proj.bias" in shapes
    config |= FAMILIES.get(table.model_type, lambda _metadata, _config: {})(metadata, config)
    return config | _token_ids(values)


def generation_config_from_gguf(values: Mapping[str, Any]) -> dict[str, Any]:
    """generation_config.json as a dict: every id that ends a turn, the declared end of sequence first."""
    ids = _token_ids(values)
    tokens, types = values.get("tokenizer.ggml.tokens", []), values.get("tokenizer.ggml.token_type", [])
    ends = [ids["eos_token_id"]] if ids["eos_token_id"] is not None else []
    for key in ("tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"):
        ends += [values[key]] if key in values else []
    control = {token: number for number, token in enumerate(tokens) if types[number : number + 1] == [CONTROL]}
    ends += [control[name] for name in TURN_ENDS if name in control]
    unique = list(dict.fromkeys(ends))
    return {**ids, "eos_token_id": unique[0] if len(unique) == 1 else unique}


def _token_ids(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        f"{name}_token_id": values.get(f"tokenizer.ggml.{key}_token_id")
        for name, key in (("bos", "bos"), ("eos", "eos"), ("pad", "padding"))
    }


def _head_dim(metadata: Metadata, config: Mapping[str, Any]) -> dict[str, Any]:
    width = metadata.get("attention.key_length") or config["hidden_size"] // config["num_attention_heads"]
    if metadata.get("attention.value_length", width) != width:
        raise StageFailed("keys and values have different head sizes", "use the model's Hugging Face folder")
    return {"head_dim": int(width)}


def _norm(metadata: Metadata, table: Architecture) -> dict[str, Any]:
    if table.model_type in LAYER_NORM:
        return {LAYER_NORM[table.model_type]: metadata.need("attention.layer_norm_epsilon")}
    return {"rms_norm_eps": metadata.need("attention.layer_norm_rms_epsilon")}


def _feed_forward(metadata: Metadata) -> dict[str, Any]:
    if not metadata.get("expert_count"):
        return {"intermediate_size": metadata.need("feed_forward_length")}
    # A file of experts only may leave the dense width out: nothing of that width is in the model then.
    dense = metadata.get("feed_forward_length")
    return {
        **({"intermediate_size": metadata.need("feed_forward_length")} if dense is not None else {}),
        "num_experts": metadata.need("expert_count"),
        "num_experts_per_tok": metadata.need("expert_used_count"),
        "moe_intermediate_size": metadata.need("expert_feed_forward_length"),
    }


def _biases(shapes: Mapping[str, tuple[int, ...]], table: Architecture) -> dict[str, Any]:
    if table.model_type not in BIASED:
        return {}
    fields = {"attention_bias": "model.layers.0.self_attn.q_proj.bias" in shapes}
    if table.model_type in ("llama", "smollm3", "arcee", "granite"):
        fields["mlp_bias"] = "model.layers.0.mlp.up_proj.bias" in shapes
    return fields


def _rope(metadata: Metadata) -> dict[str, Any]:
    parameters: dict[str, Any] = {"rope_type": "default", "rope_theta": metadata.get("rope.freq_base", 10000.0)}
    kind = metadata.get("rope.scaling.type", "none")
    if kind == "none":
        return parameters
    if kind == "linear":
        return parameters | {"rope_type": "linear", "factor": metadata.need("rope.scaling.factor")}
    if kind == "yarn":
        return parameters | {
            "rope_type": "yarn",
            "factor": metadata.need("rope.scaling.factor"),
            "original_max_position_embeddings": metadata.need("rope.scaling.original_context_length"),
        }
    raise StageFailed(f"RoPE scaling {kind!r} of this GGUF is not read here", "use the model's Hugging Face folder")


def _attention_scalar(config: Mapping[str, Any], layers_of_27b: int) -> int:
    """Only the 27B models scale by hidden/heads: the file does not say so, llama.cpp goes by their layer count."""
    if config["num_hidden_layers"] == layers_of_27b:
        return int(config["hidden_size"] // config["num_attention_heads"])
    return int(config["head_dim"])


def _gemma2(metadata: Metadata, config: Mapping[str, Any]) -> dict[str, Any]:
    scalar = _attention_scalar(config, 46)
    return {
        "hidden_activation": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": scalar,
        "sliding_window": metadata.need("attention.sliding_window"),
        "attn_logit_softcapping": metadata.need("attn_logit_softcapping"),
        "final_logit_softcapping": metadata.need("final_logit_softcapping"),
    }


def _gemma3(metadata: Metadata, config: Mapping[str, Any]) -> dict[str, Any]:
    scalar = _attention_scalar(config, 62)
    local = {"rope_type": "default", "rope_theta": metadata.get("rope.freq_base_swa", 10000.0)}
    layers = [
        "full_attention" if (number + 1) % 6 == 0 else "sliding_attention"
        for number in range(config["num_hidden_layers"])
    ]
    return {
        "hidden_activation": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": scalar,
        "layer_types": layers,
        "sliding_window": metadata.need("attention.sliding_window"),
        "rope_parameters": {"sliding_attention": local, "full_attention": dict(config["rope_parameters"])},
    }


def _qwen3_moe(_metadata: Metadata, _config: Mapping[str, Any]) -> dict[str, Any]:
    # llama.cpp's graph always normalises this family's expert weights; the published configs say so too.
    return {"norm_topk_prob": True, "decoder_sparse_step": 1, "mlp_only_layers": []}


def _qwen2_moe(metadata: Metadata, _config: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "norm_topk_prob": False,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "shared_expert_intermediate_size": metadata.need("expert_shared_feed_forward_length"),
    }


def _phi3(metadata: Metadata, config: Mapping[str, Any]) -> dict[str, Any]:
    rotary = metadata.get("rope.dimension_count", config["head_dim"])
    fields: dict[str, Any] = {"sliding_window": metadata.get("attention.sliding_window") or None}
    original = metadata.get("rope.scaling.original_context_length", config["max_position_embeddings"])
    if original != config["max_position_embeddings"]:
        raise StageFailed(
            "this phi3 GGUF uses long-context RoPE factors, which are not read here",
            "use the model's Hugging Face folder",
        )
    fields["original_max_position_embeddings"] = original
    fields["rope_parameters"] = {**config["rope_parameters"], "partial_rotary_factor": rotary / config["head_dim"]}
    return fields


def _granite(metadata: Metadata, _config: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "embedding_multiplier": metadata.need("embedding_scale"),
        "residual_multiplier": metadata.need("residual_scale"),
        "attention_multiplier": metadata.need("attention.scale"),
        "logits_scaling": metadata.need("logit_scale"),
    }


def _seed_oss(_metadata: Metadata, _config: Mapping[str, Any]) -> dict[str, Any]:
    return {"attention_bias": True, "attention_out_bias": False}  # llama.cpp's graph of this family knows no other


def _stablelm(metadata: Metadata, config: Mapping[str, Any]) -> dict[str, Any]:
    rotary = metadata.need("rope.dimension_count")
    return {
        "rope_parameters": {**config["rope_parameters"], "partial_rotary_factor": rotary / config["head_dim"]},
        "use_parallel_residual": bool(metadata.get("use_parallel_residual", False)),
    }


FAMILIES: dict[str, Any] = {
    "granite": _granite,
    "seed_oss": _seed_oss,
    "stablelm": _stablelm,
    "gemma2": _gemma2,
    "gemma3_text": _gemma3,
    "phi3": _phi3,
    "qwen2_moe": _qwen2_moe,
    "qwen3_moe": _qwen3_moe,
}

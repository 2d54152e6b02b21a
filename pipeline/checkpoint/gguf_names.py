"""GGUF's tensor names to Hugging Face's, by architecture, and what llama.cpp's converter did to the values.

Format facts: llama.cpp's conversion scripts (`modify_tensors` of each model class) and gguf-py's tensor_mapping.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from pipeline.errors import StageFailed, nearest

TOP = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
QK_NORM = {"attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm"}
SANDWICH = {
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
EXPERTS = {
    "ffn_gate_inp": "mlp.gate",
    "ffn_gate_exps": "mlp.experts.{}.gate_proj",
    "ffn_up_exps": "mlp.experts.{}.up_proj",
    "ffn_down_exps": "mlp.experts.{}.down_proj",
}
SHARED_EXPERT = {
    "ffn_gate_inp_shexp": "mlp.shared_expert_gate",
    "ffn_gate_shexp": "mlp.shared_expert.gate_proj",
    "ffn_up_shexp": "mlp.shared_expert.up_proj",
    "ffn_down_shexp": "mlp.shared_expert.down_proj",
}
POST_NORM = {
    "post_attention_norm": "post_attention_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
# Tables that the loader rebuilds from the configuration; they are no parameters of the Hugging Face model.
ROPE_TABLES = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")


@dataclass(frozen=True)
class Architecture:
    """One GGUF architecture. layer: names inside `blk.N`. permuted_qk: q/k rows are stored for interleaved RoPE
    (LlamaModel.permute). norm_offset: what the converter added to every norm's gamma (Gemma: 1)."""

    model_type: str
    class_name: str
    layer: dict[str, str] = field(default_factory=lambda: dict(LAYER))
    permuted_qk: bool = False
    norm_offset: float = 0.0


ARCHITECTURES: dict[str, Architecture] = {
    "llama": Architecture("llama", "LlamaForCausalLM", permuted_qk=True),
    "qwen2": Architecture("qwen2", "Qwen2ForCausalLM"),
    "qwen3": Architecture("qwen3", "Qwen3ForCausalLM", LAYER | QK_NORM),
    "qwen2moe": Architecture("qwen2_moe", "Qwen2MoeForCausalLM", LAYER | EXPERTS | SHARED_EXPERT),
    "qwen3moe": Architecture("qwen3_moe", "Qwen3MoeForCausalLM", LAYER | QK_NORM | EXPERTS),
    "gemma": Architecture("gemma", "GemmaForCausalLM", norm_offset=1.0),
    "gemma2": Architecture("gemma2", "Gemma2ForCausalLM", LAYER | SANDWICH, norm_offset=1.0),
    "gemma3": Architecture("gemma3_text", "Gemma3ForCausalLM", LAYER | SANDWICH | QK_NORM, norm_offset=1.0),
    "phi3": Architecture(
        "phi3", "Phi3ForCausalLM", LAYER | {"attn_qkv": "self_attn.qkv_proj", "ffn_up": "mlp.gate_up_proj"}
    ),
    "smollm3": Architecture("smollm3", "SmolLM3ForCausalLM", permuted_qk=True),
    "arcee": Architecture("arcee", "ArceeForCausalLM", permuted_qk=True),
    "granite": Architecture("granite", "GraniteForCausalLM", permuted_qk=True),
    "olmo2": Architecture("olmo2", "Olmo2ForCausalLM", LAYER | QK_NORM | POST_NORM),
    "seed_oss": Architecture(
        "seed_oss", "SeedOssForCausalLM", LAYER | {"post_attention_norm": "post_attention_layernorm"}
    ),
    "stablelm": Architecture("stablelm", "StableLmForCausalLM"),
    "starcoder2": Architecture(
        "starcoder2", "Starcoder2ForCausalLM", LAYER | {"ffn_up": "mlp.c_fc", "ffn_down": "mlp.c_proj"}
    ),
}


def architecture(name: str) -> Architecture:
    """The table of a GGUF `general.architecture`; StageFailed names those that are known."""
    if name not in ARCHITECTURES:
        raise StageFailed(
            f"GGUF architecture {name!r} is not known here.{nearest(name, ARCHITECTURES)}",
            f"use the model's Hugging Face folder (GGUF is read for {', '.join(sorted(ARCHITECTURES))})",
        )
    return ARCHITECTURES[name]


def huggingface_name(name: str, table: Architecture) -> str | None:
    """The Hugging Face name of a GGUF tensor (with `{}` for an expert's number); None for a RoPE table.

    Raises StageFailed for a tensor that the architecture's table does not have.
    """
    if name in ROPE_TABLES:
        return None
    stem, _, suffix = name.rpartition(".")
    if match := re.fullmatch(r"blk\.(\d+)\.(\w+)", stem):
        number, leaf = match.groups()
        if leaf in table.layer:
            return f"model.layers.{number}.{table.layer[leaf]}.{suffix}"
    elif stem in TOP:
        return f"{TOP[stem]}.{suffix}"
    raise StageFailed(f"GGUF tensor {name} has no place in a {table.model_type} model", "use the Hugging Face folder")

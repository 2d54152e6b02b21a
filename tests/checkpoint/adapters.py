"""Adapters for tests: PEFT's own, with weights that are away from their initial values, saved beside a tiny base."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

SMALL = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
         "num_key_value_heads": 2, "vocab_size": 80, "max_position_embeddings": 128, "pad_token_id": 0}  # fmt: skip
MOE = {"moe_intermediate_size": 32, "num_experts": 4, "num_experts_per_tok": 2}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen2": {},
    "gemma3_text": {"head_dim": 16, "query_pre_attn_scalar": 16},
    "phi3": {},
    "gpt2": {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 128, "tie_word_embeddings": False},
    "gpt_neox": {},
    "qwen3_moe": {**MOE, "head_dim": 16},
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
}
TARGETS = {
    "gpt2": ["c_attn", "c_fc", "c_proj"],
    "gpt_neox": ["query_key_value", "dense_h_to_4h"],
    "phi3": ["qkv_proj", "gate_up_proj", "o_proj"],
    "mixtral": ["q_proj", "v_proj"],
    "qwen3_moe": ["q_proj", "o_proj"],
}
IDS = torch.arange(5, 35)[None]


def base_model(family: str = "llama", **changes: Any) -> PreTrainedModel:
    """A tiny random float32 model; embedding and lm_head are separate unless `tie_word_embeddings=True`."""
    torch.set_num_threads(1)
    torch.manual_seed(7)
    values = {**SMALL, "tie_word_embeddings": False, **FAMILIES[family], **changes}
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **values), dtype=torch.float32).eval()


def adapted(model: PreTrainedModel, seed: int = 0, **config: Any) -> PeftModel:
    """`model` under a LoRA all of whose trained parameters are random."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        peft = get_peft_model(model, LoraConfig(**{"r": 4, "lora_alpha": 8, **config}))
    torch.manual_seed(100 + seed)
    with torch.no_grad():
        for parameter in peft.parameters():
            if parameter.requires_grad:
                parameter += torch.randn_like(parameter) * 0.1
    return peft.eval()


def save(model: PreTrainedModel, adapter: PeftModel, folder: Path) -> tuple[Path, Path]:
    """(base folder, adapter folder). `model` is a fresh copy of the adapter's base, for the adapter has changed it."""
    model.save_pretrained(folder / "base")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapter.save_pretrained(folder / "adapter")
    return folder / "base", folder / "adapter"


def logits(model: torch.nn.Module) -> torch.Tensor:
    """float32 logits over a fixed input."""
    with torch.no_grad():
        return model(IDS).logits

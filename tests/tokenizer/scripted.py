"""A model that says what it is told to: after a given token comes a given other one, whatever was before."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

SIZE = 64  # as many different tokens can be said or followed
LOUD = 8.0


def write_scripted(folder: Path, script: Mapping[int, int], vocabulary: int, eos: Sequence[int]) -> LlamaForCausalLM:
    """Adds config.json, generation_config.json (with `eos`) and model.safetensors to a tokenizer's folder.

    script: token → the token after it. Attention and MLP add nothing, so the last token alone decides: its embedding is
    a direction of its own, and lm_head's row of its successor is that direction.
    """
    torch.set_num_threads(1)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=SIZE,
        intermediate_size=SIZE,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=4,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=eos[0],
        dtype="float32",
    )
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        layer = model.model.layers[0]
        for matrix in (layer.self_attn.o_proj, layer.mlp.down_proj, model.model.embed_tokens, model.lm_head):
            matrix.weight.zero_()
        for direction, (token, following) in enumerate(script.items()):
            model.model.embed_tokens.weight[token, direction] = LOUD
            model.lm_head.weight[following, direction] = LOUD
    model.generation_config.eos_token_id = list(eos)
    model.half().save_pretrained(folder)
    assert json.loads((folder / "generation_config.json").read_text())["eos_token_id"] == list(eos)
    return model.float()


def answer(model: LlamaForCausalLM, prompt: Sequence[int], limit: int) -> list[int]:
    """The new tokens of Hugging Face's own `generate`, greedy."""
    ids = torch.tensor([list(prompt)])
    with torch.inference_mode():
        told = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=limit, do_sample=False)
    return [int(token) for token in told[0, len(prompt) :]]

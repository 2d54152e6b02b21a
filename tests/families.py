"""Data only: for every decoder family, the settings of a tiny model of it, as its own transformers config names them.

`type` is transformers' model_type; all other keys go into the config on top of `COMMON`. A value of None takes a key of
COMMON out again (for families that call it otherwise).
"""

from __future__ import annotations

from typing import Any

Row = dict[str, Any]

COMMON: Row = {
    "vocab_size": 1000,
    "hidden_size": 128,
    "intermediate_size": 192,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}

FAMILIES: dict[str, Row] = {
    "llama": {"type": "llama"},
    "qwen2": {"type": "qwen2"},
    "qwen3": {"type": "qwen3", "head_dim": 32},
    "mistral": {"type": "mistral", "sliding_window": 16},
    "gemma3": {
        "type": "gemma3_text",
        "head_dim": 32,
        "num_hidden_layers": 3,
        "sliding_window": 16,
        "query_pre_attn_scalar": 48,
        "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
        "tie_word_embeddings": True,
    },
}

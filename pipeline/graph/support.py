"""What the exporter is known to do with a `model_type`, for checks before any work. No torch here.

`SUPPORTED` are the families that tests/graph/test_families.py takes to the engine and compares with Hugging Face; any
other family is tried, and refused by the trace itself when it cannot be expressed. `REFUSED` cannot be.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.errors import UserError

SUPPORTED = frozenset(
    {
        "afmoe", "apertus", "arcee", "biogpt", "cohere", "cohere2", "cwm", "deepseek_v2", "deepseek_v3", "dots1",
        "ernie4_5", "ernie4_5_moe", "exaone4", "exaone_moe", "falcon", "flex_olmo", "gemma", "gemma2", "gemma3_text",
        "glm", "glm4", "glm4_moe", "glm4_moe_lite", "gpt2", "gpt_bigcode", "gpt_neox", "gpt_oss", "granite",
        "granitemoe", "granitemoeshared", "helium", "hunyuan_v1_dense", "hunyuan_v1_moe", "hyperclovax", "internlm3",
        "iquestcoder", "jais2", "lfm2", "lfm2_moe", "llama", "minicpm3", "minimax_m2", "ministral", "ministral3",
        "mistral", "mixtral", "nanochat", "nemotron", "olmo", "olmo2", "olmo3", "olmo_hybrid", "olmoe", "opt",
        "persimmon", "phi", "phi3", "phimoe", "qwen2", "qwen2_moe", "qwen3", "qwen3_5_moe_text", "qwen3_5_text",
        "qwen3_moe", "qwen3_next", "seed_oss", "smollm3", "solar_open", "stablelm", "starcoder2", "vaultgemma",
    }
)  # fmt: skip

_STATE = "it remembers earlier tokens by {}, which none of the engine's ops keeps"
_ALIBI = "it adds a bias by distance to its attention scores (ALiBi), for which the engine's attention op has no place"

REFUSED: dict[str, str] = {
    "bamba": _STATE.format("a Mamba state"),
    "bloom": _ALIBI,
    "falcon_h1": _STATE.format("a Mamba state"),
    "falcon_mamba": _STATE.format("a Mamba state"),
    "granitemoehybrid": _STATE.format("a Mamba state"),
    "jamba": _STATE.format("a Mamba state"),
    "llama4_text": "it attends within chunks, for which the engine has no mask",
    "mamba": _STATE.format("a Mamba state"),
    "mamba2": _STATE.format("a Mamba state"),
    "mpt": _ALIBI,
    "nemotron_h": _STATE.format("a Mamba state"),
    "recurrent_gemma": _STATE.format("a recurrence"),
    "rwkv": _STATE.format("a recurrence"),
    "zamba": _STATE.format("a Mamba state"),
    "zamba2": _STATE.format("a Mamba state"),
}

# A state from token to token beside attention's keys and values: what the engine can and cannot do with it is in
# pipeline/runtime/recurrent.py. With the families of multimodal models that have such a decoder.
RECURRENT = frozenset(
    {
        "lfm2", "lfm2_moe", "lfm2_vl", "minicpmv4_6", "minicpmv4_7", "olmo_hybrid", "qwen3_5", "qwen3_5_moe",
        "qwen3_5_moe_text", "qwen3_5_text", "qwen3_next",
    }
)  # fmt: skip

# Attention softcaps have no place in the engine's attention op: these build only with graph.allow_approximate=true,
# unless their config.json sets attn_logit_softcapping to null.
SOFTCAP = frozenset({"gemma2", "vaultgemma"})


# How an embedding model's tokens become one vector.
POOLINGS = ("cls", "mean", "last", "max")

# Encoders: they make embeddings, and write nothing. tests/graph/test_sentence.py says which of them the engine runs.
ENCODERS = frozenset({"albert", "bert", "distilbert", "modernbert", "nomic_bert", "roberta", "xlm-roberta"})


def check_model_type(model_type: str) -> None:
    """Raises UserError with the reason for a family that cannot be exported; an unknown one passes, to be tried."""
    reason = REFUSED.get(model_type)
    if reason is not None:
        raise UserError(f"{model_type} models cannot be exported: {reason}", "choose a model of another family")


def softcap_refusal(softcap: object) -> UserError:
    """What to say of a model whose attention scores are capped. softcap: the config's number, or "" if not known."""
    shown = f" (softcap {softcap:g})" if isinstance(softcap, int | float) else ""
    return UserError(
        f"the model caps its attention scores{shown}, which the engine's attention op cannot do",
        "set graph.allow_approximate=true to build it without the cap; its error is measured and reported",
    )


def check_softcap(model_type: str, config: Mapping[str, Any] | None, allow_approximate: bool) -> None:
    """Raises UserError for a capped attention without consent. config: the config.json, or None if that is not known.

    Then the families of SOFTCAP count as capped: every published model of theirs that conf/model names is.
    """
    softcap = "unknown" if config is None else config.get("attn_logit_softcapping")
    if model_type in SOFTCAP and softcap and not allow_approximate:
        raise softcap_refusal(softcap)

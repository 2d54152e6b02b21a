"""Names that older pages and exporters used: mapped where something took their place, else refused with the reason."""

from __future__ import annotations

from pipeline.runtime.key import Retired

_TEMPLATE = "engine 3.6.1 ignores it: the chat template is jinja.chat_template, written from the model's tokenizer"
_SPLIT = "models split into block files are gone: the graph is one file, llm_model"

_RETIRED = (
    Retired("quant_qkv", "0 float, 1 key int8, 3 and 4 key and value int8 (the fp8 value cache is gone)",
        "attention_mode",
            ((0, 8), (1, 9), (3, 10), (4, 10))),
    Retired("prompt_template", _TEMPLATE),
    Retired("chat_template", _TEMPLATE),
    Retired("system_prompt_template", _TEMPLATE),
    Retired("user_prompt_template", _TEMPLATE),
    Retired("assistant_prompt_template", _TEMPLATE),
    Retired("bos", "engine 3.6.1 takes the first token from the tokenizer file"),
    Retired("is_single", _SPLIT),
    Retired("block_model", _SPLIT),
    Retired("lm_model", _SPLIT),
    Retired("embedding_model", "the embedding is never a graph: embedding_file or tie_embeddings"),
    Retired("key_value_shape", "the Attention op owns the KV cache; nothing reads its shape"),
    Retired("attention_fused", "nothing reads it: attention is always the fused op"),
    Retired("draft_model", "nothing reads it: see speculative_type"),
    Retired("talker_weight", "nothing reads it: the weights are talker_model's name with .weight"),
    Retired("dflash_target_layer_ids", "nothing reads it"),
    Retired("max_position_embeddings", "for people: no engine reads it (we refuse prompts that go beyond it)"),
    Retired("model_type", "for people: no engine reads it"),
    Retired("model_name", "for people: no engine reads it"),
)

RETIRED = {retired.name: retired for retired in _RETIRED}

"""Keys of generation: lengths, caches, and the sampler (which the engine reads once, at load)."""

from __future__ import annotations

from pipeline.runtime.key import Key

SAMPLERS = ("greedy", "temperature", "topK", "topP", "minP", "min_p", "tfs", "typical", "penalty", "mixed")
MIXED = ("greedy", "temperature", "topK", "topP", "minP", "min_p", "tfs", "typical", "penalty")

GENERATION = (
    Key("max_new_tokens", int, 512, "longest answer", "tokens", minimum=1, maximum=1 << 24),
    Key("max_all_tokens", int, 2048, "stored by the engine, enforced nowhere", "tokens", minimum=1, maximum=1 << 24),
    Key("reuse_kv", bool, False, "keep the KV cache between the turns of a chat"),
    Key("prompt_cache", bool, False, "keep the prefix that two chats share (chat interface only)", since="3.5.0"),
    Key("all_logits", bool, False, "logits of every prompt token instead of the last; never while generating: the "
        "first token would be sampled from position 0"),
    Key("hidden_states", bool, False, "ask the graph for hidden_states as well"),
    Key("timeout_ms", int, -1, "give up an answer after this time, -1 never; the engine takes no call after that",
        "ms", minimum=-1, maximum=1 << 31, since="3.5.0"),
    Key("chunk", int, 0, "longest run of prompt tokens at once, 0 no limit; used only after a set_config call",
        "tokens", minimum=0, maximum=1 << 24),
    Key("chunk_limits", list, [], "allowed run lengths, such as [128, 1], for processors with fixed shapes; used only "
        "after a set_config call. On cpu a prompt whose last run is none of them is answered wrongly; refused for a "
        "model with a recurrent state (docs/graph.md)", "tokens",
        item=int, minimum=1),
    Key("use_template", bool, True, "put a prompt through the chat template"),
    Key("system_prompt", str, "", "system message put before every chat"),
    Key("enable_debug", bool, False, "run the session in debug mode"),
)

SAMPLING = (
    Key("sampler_type", str, "mixed", "one sampler, or mixed: the list below one after another", choices=SAMPLERS),
    Key("mixed_samplers", list, ["topK", "tfs", "typical", "topP", "min_p", "temperature"],
        "samplers of `mixed`, in order; penalties apply only if \"penalty\" is among them", item=str, choices=MIXED),
    Key("temperature", float, 1.0, "divides the logits; for no sampling use sampler_type greedy", minimum=0.01,
        maximum=100.0),
    Key("top_k", int, 40, "keep the k likeliest tokens", "tokens", minimum=1, maximum=1 << 24, since="3.5.0"),
    Key("top_p", float, 0.9, "keep the likeliest tokens up to this total probability", minimum=0.0, maximum=1.0,
        since="3.5.0"),
    Key("min_p", float, 0.1, "drop tokens below this probability (absolute, not relative to the likeliest)",
        minimum=0.0, maximum=1.0, since="3.5.0"),
    Key("tfs_z", float, 1.0, "tail-free sampling, 1 off", minimum=0.0, maximum=1.0, since="3.5.0"),
    Key("typical", float, 1.0, "typical sampling's total probability, 1 off", minimum=0.0, maximum=1.0),
    Key("topK", int, 40, "top_k for engines before 3.5; top_k wins", "tokens", minimum=1, maximum=1 << 24),
    Key("topP", float, 0.9, "top_p for engines before 3.5; top_p wins", minimum=0.0, maximum=1.0),
    Key("minP", float, 0.1, "min_p for engines before 3.5; min_p wins", minimum=0.0, maximum=1.0),
    Key("tfsZ", float, 1.0, "tfs_z for engines before 3.5; tfs_z wins", minimum=0.0, maximum=1.0),
    Key("repetition_penalty", float, 1.0, "divides the logits of tokens that came before, 1 off", minimum=1.0,
        maximum=10.0, since="3.5.0"),
    Key("penalty", float, 1.0, "repetition_penalty for engines before 3.5; repetition_penalty wins", minimum=1.0,
        maximum=10.0),
    Key("presence_penalty", float, 0.0, "taken from the logits of tokens that came before", minimum=0.0,
        maximum=100.0, since="3.5.0"),
    Key("frequency_penalty", float, 0.0, "taken from the logits of tokens for each time that they came",
        minimum=0.0, maximum=100.0, since="3.5.0"),
    Key("penalty_window", int, 0, "tokens that penalties look back at, 0 all", "tokens", minimum=0, maximum=1 << 24,
        since="3.5.0"),
    Key("n_gram", int, 8, "longest repeated run that the penalty sees", "tokens", minimum=1, maximum=1024),
    Key("ngram_factor", float, 1.0, "how much more a longer repeated run costs, 1 off", minimum=0.0, maximum=100.0),
    Key("penalty_sampler", str, "greedy", "how a single penalty sampler chooses", choices=("greedy", "temperature")),
    Key("logit_bias", dict, {}, "token id (as text) → number added to its logit; sampler_type mixed only",
        since="3.5.0"),
    Key("banned_tokens", list, [], "token ids never to choose; sampler_type mixed only", item=int, minimum=0,
        since="3.5.0"),
)

SPECULATIVE = (
    Key("speculative_type", str, "", "how tokens are drafted; mtp, eagle and dflash need models of their own "
        "beside llm.mnn; refused for a model with a recurrent state (docs/graph.md)",
        choices=("", "lookahead", "mtp", "eagle", "dflash")),
    Key("draft_predict_length", int, 3, "tokens drafted at once", "tokens", minimum=1, maximum=64),
    Key("draft_match_strictness", str, "low", "how surely lookahead must match", choices=("low", "medium", "high")),
    Key("draft_selection_rule", str, "freqxlen", "which of several drafts lookahead takes", choices=("freqxlen",
        "fcfs")),
    Key("ngram_match_maxlen", int, 4, "longest history that lookahead matches", "tokens", minimum=1, maximum=64),
    Key("ngram_update", bool, False, "lookahead learns from what was decoded"),
    Key("lookup_file", str, "lookup_file.txt", "text that lookahead knows beforehand", path=True),
    Key("mtp_model", str, "mtp.mnn", "multi-token prediction head; missing = the engine crashes at load", path=True),
    Key("eagle_model", str, "eagle.mnn", "EAGLE draft model", path=True),
    Key("eagle_fc", str, "eagle_fc.mnn", "EAGLE's input projection", path=True),
    Key("eagle_d2t", str, "eagle_d2t.mnn", "EAGLE's draft-to-target vocabulary", path=True),
    Key("eagle_depth", int, 3, "depth of EAGLE's tree", minimum=1, maximum=64),
    Key("eagle_topk", int, 1, "width of EAGLE's tree", minimum=1, maximum=64),
    Key("dflash_model", str, "dflash.mnn", "DFlash draft model", path=True, since="3.6.0"),
    Key("dflash_fc", str, "dflash_fc.mnn", "DFlash's input projection", path=True, since="3.6.0"),
    Key("dflash_lmhead", str, "", "DFlash's own output head", path=True, since="3.6.0"),
    Key("dflash_block_size", int, 16, "tokens of a DFlash block", "tokens", minimum=1, maximum=1024, since="3.6.0"),
    Key("dflash_mask_token_id", int, 0, "DFlash's mask token", minimum=0, maximum=1 << 31, since="3.6.0"),
)

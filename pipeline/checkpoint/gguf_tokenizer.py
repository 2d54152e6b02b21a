"""tokenizer.json and tokenizer_config.json from a GGUF's metadata, in the form that the `tokenizers` library reads.

Format facts: ggml's docs/gguf.md ("Tokenizer"), llama.cpp's llama-vocab (the pre-tokenizer's regular expressions by
`tokenizer.ggml.pre`), and the tokenizer.json files of the families themselves.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.checkpoint.gguf_merges import merges_from_scores
from pipeline.errors import StageFailed, nearest

UNKNOWN, CONTROL, USER_DEFINED, UNUSED = 2, 3, 4, 5
SPACE = "\u2581"
WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
TAIL = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
ONE_DIGIT, THREE_DIGITS = WORDS + r"|\p{N}" + TAIL, WORDS + r"|\p{N}{1,3}" + TAIL
# tokenizer.ggml.pre → (regular expression or one of the two built-in splits, NFC first, whole words skip the merges)
GPT2, DIGITS = "gpt2", "digits"
PRE_TOKENIZERS: dict[str, tuple[str, bool, bool]] = {
    "gpt-2": (GPT2, False, False),
    "olmo": (GPT2, False, False),
    "phi-2": (GPT2, False, False),
    "smollm": (DIGITS, False, False),
    "starcoder": (DIGITS, False, False),
    "refact": (DIGITS, False, False),
    "codeshell": (DIGITS, False, False),
    "command-r": (DIGITS, True, False),
    "llama-bpe": (THREE_DIGITS, False, True),
    "llama3": (THREE_DIGITS, False, True),
    "llama-v3": (THREE_DIGITS, False, True),
    "smaug-bpe": (THREE_DIGITS, False, True),
    "dbrx": (THREE_DIGITS, False, False),
    "qwen2": (ONE_DIGIT, True, False),
    "deepseek-r1-qwen": (ONE_DIGIT, False, False),
    "megrez": (ONE_DIGIT, True, False),
    "stablelm2": (ONE_DIGIT, True, False),
}
ADDS_BOS = ("llama-bpe", "llama3", "llama-v3", "smaug-bpe")


def tokenizer_from_gguf(values: Mapping[str, Any]) -> dict[str, Any]:
    """tokenizer.json as a dict. Raises StageFailed for a kind or pre-tokenizer without an exact equal here."""
    kind = str(values.get("tokenizer.ggml.model"))
    if kind == "gpt2":
        parts = _byte_level(values)
    elif kind == "llama":
        parts = _sentencepiece(values)
    else:
        raise StageFailed(
            f"the GGUF's tokenizer is of kind {kind!r}; gpt2 and llama are read here",
            "use the model's Hugging Face folder",
        )
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": _added_tokens(values, kind),
        **parts,
        "post_processor": _post_processor(values),
    }


def tokenizer_config_from_gguf(values: Mapping[str, Any]) -> dict[str, Any]:
    """tokenizer_config.json as a dict: special tokens by name, chat template, context length."""
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "model_max_length": values.get(f"{values['general.architecture']}.context_length"),
        "add_bos_token": adds_bos(values),
        "add_eos_token": False,
    }
    for name, key in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding")):
        if (token := _token(values, key)) is not None:
            config[f"{name}_token"] = token
    if template := values.get("tokenizer.chat_template"):
        config["chat_template"] = template
    return config


def adds_bos(values: Mapping[str, Any]) -> bool:
    """Whether an encoded text begins with bos: as the file says, else llama.cpp's default for the kind."""
    said = values.get("tokenizer.ggml.add_bos_token")
    if said is not None:
        return bool(said)
    return values.get("tokenizer.ggml.model") == "llama" or values.get("tokenizer.ggml.pre") in ADDS_BOS


def _token(values: Mapping[str, Any], key: str) -> str | None:
    number = values.get(f"tokenizer.ggml.{key}_token_id")
    tokens = values["tokenizer.ggml.tokens"]
    return str(tokens[number]) if number is not None and 0 <= number < len(tokens) else None


def _vocabulary(values: Mapping[str, Any]) -> dict[str, int]:
    """Tokens by text. UNUSED ones are padding of the embedding matrix ("[PAD151646]"), and no tokens at all."""
    types = values["tokenizer.ggml.token_type"]
    return {
        token: number
        for number, token in enumerate(values["tokenizer.ggml.tokens"])
        if types[number] != UNUSED or values["tokenizer.ggml.model"] == "llama"
    }


def _added_tokens(values: Mapping[str, Any], kind: str) -> list[dict[str, Any]]:
    special = {CONTROL, UNKNOWN} if kind == "llama" else {CONTROL}
    return [
        {
            "id": number,
            "content": token,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": kind == "llama" and token_type == USER_DEFINED,
            "special": token_type in special,
        }
        for number, (token, token_type) in enumerate(
            zip(values["tokenizer.ggml.tokens"], values["tokenizer.ggml.token_type"], strict=True)
        )
        if token_type in special or token_type == USER_DEFINED
    ]


def _model(vocabulary: dict[str, int], merges: list[list[str]], **changes: Any) -> dict[str, Any]:
    model = {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": False,
    }
    return {**model, **changes, "vocab": vocabulary, "merges": merges}


def _byte_level(values: Mapping[str, Any]) -> dict[str, Any]:
    name = str(values.get("tokenizer.ggml.pre", "default"))
    if name not in PRE_TOKENIZERS:
        raise StageFailed(
            f"the GGUF's pre-tokenizer {name!r} is not known here.{nearest(name, PRE_TOKENIZERS)}",
            "use the model's Hugging Face folder",
        )
    split, nfc, ignore_merges = PRE_TOKENIZERS[name]
    merges = [merge.split(" ", 1) for merge in values["tokenizer.ggml.merges"]]
    return {
        "normalizer": {"type": "NFC"} if nfc else None,
        "pre_tokenizer": _pre_tokenizer(split),
        "decoder": _byte_level_step(use_regex=True),
        "model": _model(_vocabulary(values), merges, ignore_merges=ignore_merges),
    }


def _pre_tokenizer(split: str) -> dict[str, Any]:
    if split == GPT2:
        return _byte_level_step(use_regex=True)
    if split == DIGITS:
        return {
            "type": "Sequence",
            "pretokenizers": [{"type": "Digits", "individual_digits": True}, _byte_level_step(use_regex=True)],
        }
    pattern = {"type": "Split", "pattern": {"Regex": split}, "behavior": "Isolated", "invert": False}
    return {"type": "Sequence", "pretokenizers": [pattern, _byte_level_step(use_regex=False)]}


def _byte_level_step(use_regex: bool) -> dict[str, Any]:
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": use_regex}


def _sentencepiece(values: Mapping[str, Any]) -> dict[str, Any]:
    vocabulary = _vocabulary(values)
    prefix = bool(values.get("tokenizer.ggml.add_space_prefix", True))
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    prepend = {"type": "Prepend", "prepend": SPACE}
    steps: list[dict[str, Any]] = [
        {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    if prefix:
        steps.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    merges = merges_from_scores(vocabulary, values["tokenizer.ggml.scores"])
    return {
        "normalizer": {"type": "Sequence", "normalizers": [prepend, replace]} if prefix else replace,
        "pre_tokenizer": None,
        "decoder": {"type": "Sequence", "decoders": steps},
        "model": _model(vocabulary, merges, unk_token=_token(values, "unknown"), fuse_unk=True, byte_fallback=True),
    }


def _post_processor(values: Mapping[str, Any]) -> dict[str, Any] | None:
    bos = _token(values, "bos")
    if not adds_bos(values) or bos is None:
        return None
    special = {"SpecialToken": {"id": bos, "type_id": 0}}
    pieces = [{"Sequence": {"id": "A", "type_id": 0}}]
    pair = [special, *pieces, {"SpecialToken": {"id": bos, "type_id": 1}}, {"Sequence": {"id": "B", "type_id": 1}}]
    ids = {bos: {"id": bos, "ids": [values["tokenizer.ggml.bos_token_id"]], "tokens": [bos]}}
    return {"type": "TemplateProcessing", "single": [special, *pieces], "pair": pair, "special_tokens": ids}

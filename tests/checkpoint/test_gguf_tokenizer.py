"""Tokenizers rebuilt from GGUF metadata: against llama.cpp's ids, trained byte-level BPEs, and SentencePiece itself."""

from __future__ import annotations

import io
import json
import pydoc_data.topics
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer

from pipeline.checkpoint.gguf_header import read_header
from pipeline.checkpoint.gguf_tokenizer import (
    PRE_TOKENIZERS,
    adds_bos,
    tokenizer_config_from_gguf,
    tokenizer_from_gguf,
)
from pipeline.errors import StageFailed

TEXT = [text for text in pydoc_data.topics.topics.values() if isinstance(text, str)][:30]
PROBES = [
    "Hello world", "In 2024, 3.14159!", "  tabs\tand\n\n  lines", "don't I'LL we've", "x=42;\r\ny += 0x1F",
    "日本語 👩‍👩‍👧 e\u0301 naïve", "a\u00a0b\u200bc", "", " ", "\n\n\n", "ﬁ Å K", *TEXT[:5]]  # fmt: skip
# Ids that llama.cpp (llama-cpp-python 0.3.36, special=True, add_bos=False) gives for the demo model's own file.
LLAMA_CPP = [
    ("Hello world", [19556, 905]),
    ("In 2024, 3.14159!", [788, 216, 34, 32, 34, 36, 28, 216, 35, 30, 33, 36, 33, 37, 41, 17]),
    ("  tabs\tand\n\n  lines", [216, 29416, 197, 397, 8866, 3204]),
    ("don't I'LL we've", [12420, 982, 339, 23, 16421, 392, 3543]),
    ("日本語 👩‍👩‍👧 e\u0301", [23274, 115, 40993, 179, 120, 248, 15107, 235, 119, 321, 231, 10813, 235, 119, 321, 231,
                          10813, 235, 117, 297, 151, 219]),
    ("<|im_start|>user\nhi<|im_end|>", [1, 4093, 198, 6004, 2]),
    ("x=42;\r\ny += 0x1F", [104, 45, 36, 34, 43, 201, 198, 105, 4519, 216, 32, 104, 33, 54]),
]  # fmt: skip


@pytest.fixture(scope="module")
def smollm2_folder(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    metadata = read_header(smollm2).metadata
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer_from_gguf(metadata)))
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer_config_from_gguf(metadata)))
    return folder


@pytest.mark.parametrize(("text", "ids"), LLAMA_CPP)
def test_smollm2_ids_are_llama_cpps(smollm2_folder: Path, text: str, ids: list[int]) -> None:
    assert Tokenizer.from_file(str(smollm2_folder / "tokenizer.json")).encode(text).ids == ids


def test_transformers_takes_it_as_it_is(smollm2_folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(smollm2_folder)
    for text, ids in LLAMA_CPP:
        assert tokenizer(text)["input_ids"] == ids
        assert tokenizer.decode(ids) == text
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == (
        "<|im_start|>",
        "<|im_end|>",
        "<|im_end|>",
    )
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "hi"}], tokenize=False, add_generation_prompt=True
    )
    assert text.endswith("<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n")


# The pre-tokenizers of the families' published tokenizer.json files.
QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA3 = QWEN2.replace(r"|\p{N}|", r"|\p{N}{1,3}|")


def published(name: str) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(ignore_merges=name == "llama-bpe"))
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=name in ("gpt-2", "smollm"))
    if name == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    before: list[Any] = {
        "gpt-2": [],
        "smollm": [pre_tokenizers.Digits(individual_digits=True)],
        "qwen2": [pre_tokenizers.Split(Regex(QWEN2), "isolated")],
        "llama-bpe": [pre_tokenizers.Split(Regex(LLAMA3), "isolated")],
    }[name]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*before, level])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=700,
        special_tokens=["<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    return tokenizer


def as_metadata(tokenizer: Tokenizer, pre: str) -> dict[str, Any]:
    model = json.loads(tokenizer.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].__getitem__)
    return {
        "general.architecture": "llama", "llama.context_length": 512,
        "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": pre, "tokenizer.ggml.add_bos_token": False,
        "tokenizer.ggml.tokens": [*tokens, "[PAD]"],
        "tokenizer.ggml.token_type": [3] + [1] * (len(tokens) - 1) + [5],
        "tokenizer.ggml.merges": [" ".join(merge) for merge in model["merges"]],
        "tokenizer.ggml.eos_token_id": 0}  # fmt: skip


@pytest.mark.parametrize("name", ["gpt-2", "smollm", "qwen2", "llama-bpe"])
def test_byte_level_families(name: str) -> None:
    tokenizer = published(name)
    ours = Tokenizer.from_str(json.dumps(tokenizer_from_gguf(as_metadata(tokenizer, name))))
    for text in [*PROBES, "a<|end|>b"]:
        assert ours.encode(text).ids == tokenizer.encode(text).ids, text
        ids = tokenizer.encode(text).ids
        assert ours.decode(ids, skip_special_tokens=False) == tokenizer.decode(ids, skip_special_tokens=False)
    assert ours.token_to_id("[PAD]") is None


def test_families_do_differ() -> None:
    """Otherwise the test above would pass with one pre-tokenizer for all."""
    probe = "In 2024 don't\r\n\r\nÅ"
    metadata = as_metadata(published("qwen2"), "qwen2")
    found = set()
    for name in ("gpt-2", "smollm", "qwen2", "llama-bpe"):
        ours = Tokenizer.from_str(json.dumps(tokenizer_from_gguf({**metadata, "tokenizer.ggml.pre": name})))
        words = ours.pre_tokenizer.pre_tokenize_str(ours.normalizer.normalize_str(probe) if ours.normalizer else probe)
        found.add(str([word for word, _ in words]))
    assert len(found) == 4


@pytest.mark.parametrize("prefix", [True, False])
def test_sentencepiece_ids(prefix: bool) -> None:
    buffer = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter("\n".join(TEXT).splitlines()), model_writer=buffer, model_type="bpe", vocab_size=900,
        byte_fallback=True, add_dummy_prefix=prefix, normalization_rule_name="identity", minloglevel=2,
        remove_extra_whitespaces=False, user_defined_symbols=["<tool>"], num_threads=1)  # fmt: skip
    theirs = sentencepiece.SentencePieceProcessor(model_proto=buffer.getvalue())
    values = sentencepiece_metadata(theirs, prefix)
    ours = Tokenizer.from_str(json.dumps(tokenizer_from_gguf(values)))
    for text in PROBES:
        assert ours.encode(text).ids == theirs.encode(text), text
        assert ours.decode(theirs.encode(text)) == theirs.decode(theirs.encode(text))


def sentencepiece_metadata(model: Any, prefix: bool) -> dict[str, Any]:
    count = model.get_piece_size()
    kinds = [(model.is_unknown, 2), (model.is_control, 3), (model.is_unused, 5), (model.is_byte, 6)]
    types = [next((number for test, number in kinds if test(i)), 1) for i in range(count)]
    types[model.piece_to_id("<tool>")] = 4
    return {
        "general.architecture": "llama", "tokenizer.ggml.model": "llama", "tokenizer.ggml.add_bos_token": False,
        "tokenizer.ggml.tokens": [model.id_to_piece(i) for i in range(count)], "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.scores": [model.get_score(i) for i in range(count)], "tokenizer.ggml.add_space_prefix": prefix,
        "tokenizer.ggml.unknown_token_id": 0, "tokenizer.ggml.bos_token_id": 1}  # fmt: skip


def test_bos_in_front_when_the_file_says_so() -> None:
    metadata = as_metadata(published("llama-bpe"), "llama-bpe")
    metadata |= {"tokenizer.ggml.bos_token_id": 0}
    for said, expected in ((True, True), (False, False), (None, True)):
        values = {**metadata, "tokenizer.ggml.add_bos_token": said}
        assert adds_bos(values) is expected
        ids = Tokenizer.from_str(json.dumps(tokenizer_from_gguf(values))).encode("hi").ids
        assert (ids[0] == 0) is expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokenizer.ggml.model": "t5"}, "of kind 't5'"),
        ({"tokenizer.ggml.pre": "qwen3000"}, "pre-tokenizer 'qwen3000'"),
        ({"tokenizer.ggml.pre": "default"}, "pre-tokenizer 'default'"),
    ],
)
def test_what_has_no_equal_is_refused(change: dict[str, str], message: str) -> None:
    values = {"tokenizer.ggml.tokens": ["a"], "tokenizer.ggml.token_type": [1], "tokenizer.ggml.model": "gpt2",
              "tokenizer.ggml.merges": [], **change}  # fmt: skip
    with pytest.raises(StageFailed, match=message):
        tokenizer_from_gguf(values)


def test_every_known_pre_tokenizer_loads() -> None:
    metadata = as_metadata(published("gpt-2"), "gpt-2")
    for name in PRE_TOKENIZERS:
        Tokenizer.from_str(json.dumps(tokenizer_from_gguf({**metadata, "tokenizer.ggml.pre": name}))).encode("a 1")

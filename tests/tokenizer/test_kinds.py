"""Every kind of tokenizer that the format can say, small and trained here, against `tokenizers` itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, normalizers, pre_tokenizers

from . import tiny

KINDS: dict[str, Callable[[], Tokenizer]] = {
    "gpt2": tiny.gpt2,
    "smol": tiny.smol,
    "qwen": tiny.qwen,
    "llama2": tiny.llama2,
    "gemma": tiny.gemma,
    "unigram": tiny.unigram,
    "cl100k": lambda: tiny.byte_level(tiny.split(tiny.CL100K, "removed")),
    "o200k": lambda: tiny.byte_level(tiny.split(tiny.O200K)),
    "prefix space": lambda: tiny.byte_level(pre_tokenizers.ByteLevel(add_prefix_space=True)),
    "NFKC": lambda: tiny.byte_level(pre_tokenizers.ByteLevel(add_prefix_space=False), normalizers.NFKC()),
    "lower": lambda: tiny.byte_level(tiny.split(tiny.CL100K), normalizers.Lowercase()),
    "strip": lambda: tiny.byte_level(tiny.split(tiny.CL100K), normalizers.Strip(left=True, right=False)),
    "whitespace": lambda: tiny.byte_level(
        pre_tokenizers.Sequence(
            [pre_tokenizers.Whitespace(), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
        )
    ),
    "punctuation": lambda: tiny.byte_level(
        pre_tokenizers.Sequence(
            [pre_tokenizers.Punctuation(), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
        )
    ),
    "digits together": lambda: tiny.byte_level(
        pre_tokenizers.Sequence([pre_tokenizers.Digits(), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    ),
    "CJK": lambda: tiny.byte_level(tiny.split(r"[一-龥぀-ヿ]+|\p{L}+|[^\p{L}一-龥]")),
}
LINES = ("\x85", "\u2028", "\u2029")  # no blanks to the engine's Strip
# One child process for all of hypothesis's texts of a kind.
ODD = st.lists(
    st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=12), min_size=400, max_size=400
)


@pytest.mark.parametrize("kind", KINDS)
def test_ids_are_equal(kind: str, tmp_path: Path) -> None:
    samples = tiny.texts() if kind != "strip" else [text for text in tiny.texts() if text[:1] not in LINES]
    assert tiny.wrong(KINDS[kind](), tmp_path, samples) == []


@pytest.mark.parametrize("kind", ["smol", "llama2", "unigram", "o200k"])
def test_ids_of_any_text_are_equal(kind: str, tmp_path: Path) -> None:
    tokenizer = KINDS[kind]()

    @settings(max_examples=2, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(ODD)
    def check(samples: list[str]) -> None:
        assert tiny.wrong(tokenizer, tmp_path, samples) == []

    check()


def test_bert_is_equal_but_for_private_characters(tmp_path: Path) -> None:
    samples = [text for text in tiny.texts() if "\ue000" not in text]
    assert tiny.wrong(tiny.bert(), tmp_path, samples) == []


def test_bert_knows_the_punctuation_and_blanks_that_hugging_face_knows(tmp_path: Path) -> None:
    """Its Unicode is older than the engine's: U+2E46 is punctuation since Unicode 10, U+2E52 since 14."""
    samples = [f"word{chr(code)}word" for code in (*range(0x2000, 0x2070), *range(0x2E00, 0x2E80), 0x85, 0xA0, 0x1C)]
    assert tiny.wrong(tiny.bert(), tmp_path, samples) == []


@pytest.mark.parametrize("kind", ["gpt2", "llama2", "unigram"])
def test_streamed_text_is_hugging_face_s(kind: str, tmp_path: Path) -> None:
    tokenizer = KINDS[kind]()
    sequences = tiny.ids(tokenizer, tiny.texts())
    streamed = [data.decode("utf-8", "replace") for data in tiny.engine(tokenizer, tmp_path).decode(sequences)]
    expected = tokenizer.decode_batch(sequences, skip_special_tokens=False)
    assert [left for left, right in zip(streamed, expected, strict=True) if left not in (right, f" {right}")] == []


def test_added_tokens_with_flags(tmp_path: Path) -> None:
    tokenizer = tiny.with_tokens(
        tiny.gpt2(),
        AddedToken("<left>", lstrip=True, special=True),
        AddedToken("<right>", rstrip=True),
        AddedToken("<both>", lstrip=True, rstrip=True),
        AddedToken("<b"),
        AddedToken("<think>", special=False),
    )
    samples = [
        "a <left> b",
        "a  <right>  b",
        "x \n<both>\t y",
        "<b><both><bo",
        "<think> a </think>",
        "<left><right>",
        " <left>",
        "<right> ",
        "<think><think>",
    ]
    assert tiny.wrong(tokenizer, tmp_path, samples) == []


def test_added_tokens_decode_to_their_text(tmp_path: Path) -> None:
    tokenizer = tiny.with_tokens(tiny.gpt2(), AddedToken("<think>"), AddedToken("<｜a▁b｜>"), AddedToken("<two words>"))
    samples = ["<think>", "<｜a▁b｜>", "<two words>"]
    decoded = tiny.engine(tokenizer, tmp_path).decode(tiny.ids(tokenizer, samples))
    assert [data.decode() for data in decoded] == samples


def test_long_texts_take_linear_time(tmp_path: Path) -> None:
    """A SentencePiece prompt is one word to the engine: quadratic, if it is not cut at its blanks."""
    prompt = "some plain words of a long prompt " * 3_000
    assert tiny.wrong(tiny.llama2(), tmp_path, [prompt]) == []


def test_very_long_runs_do_not_crash(tmp_path: Path) -> None:
    """std::wregex recurses for every character of a match: a run of 50,000 would overflow the stack."""
    answer = tiny.engine(tiny.gpt2(), tmp_path).encode(["-" * 50_000])[0]
    assert len(answer) > 0

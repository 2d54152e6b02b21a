"""Limits of tokenizer.txt: what differs from Hugging Face differs exactly as Hugging Face with the limit put in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models

from pipeline.errors import StageFailed
from pipeline.tokenizer.build import write
from pipeline.tokenizer.engine import EngineTokenizer
from pipeline.tokenizer.facts import Facts
from pipeline.tokenizer.folder import TokenizerFolder
from pipeline.tokenizer.parity import Parity, check_parity
from pipeline.tokenizer.parity.limited import sentencepiece_piece
from pipeline.tokenizer.parity.reference import Reference

from . import tiny


def _txt(tokenizer: Tokenizer, folder: Path) -> tuple[Facts, Parity]:
    checkpoint = tiny.save(tokenizer, folder / "checkpoint")
    (folder / "product").mkdir()
    facts = write(TokenizerFolder.open(checkpoint), folder / "product", "txt")
    return facts, check_parity(folder / "product", checkpoint, texts=tiny.texts())


@pytest.mark.parametrize("make", [tiny.qwen, tiny.smol])
def test_every_difference_of_the_fixed_words_is_explained(make: object, tmp_path: Path) -> None:
    assert callable(make)
    _, parity = _txt(make(), tmp_path)
    assert parity.differences == 0 and parity.explained > 5
    with pytest.raises(StageFailed, match="accept_tokenizer_limits"):
        parity.require()
    parity.require(accept_limits=True)


def _with_two_blanks(document: dict[str, Any]) -> None:
    model = document["model"]
    model["vocab"]["▁▁"] = len(model["vocab"])
    model["merges"].append(["▁", "▁"])


def test_sentencepiece_has_equal_ids_and_streams_runs_of_blanks_wrongly(tmp_path: Path) -> None:
    facts, parity = _txt(tiny.reloaded(tiny.llama2(), _with_two_blanks), tmp_path)
    assert parity.encode_differences == parity.decode_differences == 0 and parity.decode_explained > 0
    assert any("blanks" in limit for limit in facts.limits)


def test_a_byte_that_the_vocabulary_lacks_ends_the_engine(tmp_path: Path) -> None:
    """Told apart: known to crash, so not asked, counted and named; and it really crashes."""
    tokenizer = Tokenizer(models.BPE({"a": 0, "b": 1, "ab": 2}, [("a", "b")]))
    tokenizer.pre_tokenizer = tiny.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    checkpoint = tiny.save(tokenizer, tmp_path / "checkpoint")
    out = tmp_path / "product"
    out.mkdir()
    facts = write(TokenizerFolder.open(checkpoint), out, "txt")
    assert any("63 64 65" in limit and "ends the engine's process" in limit for limit in facts.limits)
    parity = check_parity(out, checkpoint, texts=["ab", "aab", "abc"])
    assert (parity.texts, parity.explained, parity.differences) == (3, 1, 0)
    with pytest.raises(StageFailed, match=r"crashed \(signal 6\) on encode of \"abc\""):
        EngineTokenizer(out / "tokenizer.txt").encode(["ab", "abc"])


def test_private_characters_are_the_only_difference_of_bert(tmp_path: Path) -> None:
    checkpoint = tiny.save(tiny.bert(), tmp_path / "checkpoint")
    out = tmp_path / "product"
    out.mkdir()
    write(TokenizerFolder.open(checkpoint), out)
    private = ["a\ue000b", "\uf8ff", "\U000f0000 word"]
    parity = check_parity(out, checkpoint, texts=[*tiny.texts(), *private], decodes=False)
    assert parity.differences == 0 and parity.explained >= len(private)


def test_lengths_of_batches_are_no_part_of_a_tokenizer(tmp_path: Path) -> None:
    """MiniLM's file pads and cuts every text to 128 tokens."""
    tokenizer = tiny.gpt2()
    tokenizer.enable_padding(length=20)
    tokenizer.enable_truncation(5)
    checkpoint = tiny.save(tokenizer, tmp_path)
    assert Reference.open(checkpoint).encode(["some plain words of text"]) == tiny.ids(
        tiny.gpt2(), ["some plain words of text"]
    )


def test_pieces_stream_as_the_engine_s_replace_leaves_them() -> None:
    assert sentencepiece_piece("▁the") == b" the"
    assert sentencepiece_piece("▁▁") == " ▁".encode()
    assert sentencepiece_piece("a▁bc") == b"a c"
    assert sentencepiece_piece("<0xC3>") == b"\xc3"

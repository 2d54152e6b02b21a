"""SentencePiece's compiled normalisation, as XLM-R's models carry it: in the engine, against the tokenizers library."""

from __future__ import annotations

import base64
import struct
from pathlib import Path

import pytest
from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers

from pipeline.errors import StageFailed
from pipeline.tokenizer.charsmap import charsmap_rules
from pipeline.tokenizer.normalizer import encode_normalizer
from tests.tokenizer import tiny

# "a" with two marks: Hugging Face drops the second, see known_limits.
TWO_MARKS = "a\u0323\u0302"


@pytest.fixture(scope="module")
def table() -> bytes:
    return tiny.charsmap()


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return tiny.xlm_roberta()


def samples() -> list[str]:
    odd = ["ﬁne １２３ ｱｲｳ ㍿ ™ ½ …", "e\u0301te\u0301", "a\r\nb\tc\x07d", "  two  blanks   "]
    return [*odd, "a\u00a0b\u200bc\u3000d\ufeffe", *(text for text in tiny.texts() if TWO_MARKS not in text)]


def test_the_engine_normalises_as_hugging_face_does(tokenizer: Tokenizer, tmp_path: Path) -> None:
    assert tiny.wrong(tokenizer, tmp_path, samples()) == []


def test_runs_of_blanks_become_one(tmp_path: Path) -> None:
    """The form of later conversions: no cut at blanks before the marks, but runs of them are one."""
    for content in (" ", "▁"):
        later = tiny.xlm_roberta()
        blanks = normalizers.Replace(Regex(" {2,}"), content)
        later.normalizer = normalizers.Sequence([later.normalizer, blanks])
        later.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
        (tmp_path / content).mkdir()
        texts = [*samples(), *("a" + " " * count + "b" for count in (1, 2, 3, 4, 5, 7, 64, 999)), " " * 9]
        assert tiny.wrong(later, tmp_path / content, texts) == []


def test_every_character_alone(table: bytes) -> None:
    """All characters of the planes that have any rule, one by one, through the rules as the engine applies them."""
    normalizer, rules = normalizers.Precompiled(table), charsmap_rules(table)
    characters = [chr(code) for code in (*range(1, 0xD800, 7), *range(0xF900, 0x10000), *range(0x1D400, 0x1D800))]
    characters = [char for char in characters if char != "☃"]
    joined = "☃".join(characters).encode()
    for pattern, content in rules:
        joined = joined.replace(pattern, content)
    assert joined.decode().split("☃") == [normalizer.normalize_str(char) for char in characters]


def test_a_damaged_table_is_one_line(table: bytes) -> None:
    for damaged in (b"", table[:9], struct.pack("<I", 1 << 30) + table[4:]):
        with pytest.raises(StageFailed, match="damaged"):
            charsmap_rules(damaged)
    with pytest.raises(StageFailed, match="base64"):
        encode_normalizer({"type": "Precompiled", "precompiled_charsmap": "%%"})
    whole = {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(table).decode()}
    assert len(encode_normalizer(whole)) > 50_000

"""The small modules: byte alphabet, code points, regex translation, normal forms, corpus, shrinking, cutting."""

from __future__ import annotations

import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import normalizers, pre_tokenizers

from pipeline.errors import StageFailed
from pipeline.tokenizer import binary, bytelevel
from pipeline.tokenizer.blanks import cut_at_blanks
from pipeline.tokenizer.codepoints import members, merge
from pipeline.tokenizer.parity.corpus import corpus, digest, fixed
from pipeline.tokenizer.parity.minimal import shortest
from pipeline.tokenizer.protobuf import fields
from pipeline.tokenizer.regex import to_wide
from pipeline.tokenizer.unicode_forms import SYLLABLES, Rule, accent_rules, lower_rules, nfc_rules, nfkc_rules

from . import tiny

TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=40)


def _apply(rules: list[Rule], text: str) -> str:
    data = text.encode()
    for pattern, content in rules:
        data = data.replace(pattern, content)
    return data.decode()


def test_byte_alphabet_is_tokenizers() -> None:
    assert sorted(bytelevel.CHAR_TO_BYTE) == sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str("é \n🫠\x00")
    assert bytelevel.encode("é \n🫠\x00") == "".join(piece for piece, _ in pieces)


@given(TEXT)
def test_byte_alphabet_goes_both_ways(text: str) -> None:
    assert bytelevel.decode(bytelevel.encode(text)) == text.encode()


def test_strings_have_a_limit() -> None:
    assert binary.string("é") == b"\x02\x00\xc3\xa9"
    with pytest.raises(StageFailed, match="65535"):
        binary.string("x" * 65_536)


@pytest.mark.parametrize(("expression", "category"), [(r"\p{Lu}", "Lu"), (r"\p{Nd}", "Nd"), (r"\p{Sc}", "Sc")])
def test_members_are_unicode_s(expression: str, category: str) -> None:
    """Python's tables are older or newer: only characters that they know are compared."""
    found = {code for start, stop in members(expression) for code in range(start, stop + 1)}
    known = {code for code in range(0x110000) if unicodedata.category(chr(code)) == category}
    newer = {code for code in found - known if unicodedata.category(chr(code)) == "Cn"}
    assert known <= found and found - newer <= known


def test_members_cover_the_uniform_planes() -> None:
    assert members(r"\p{L}")[0] == (0x41, 0x5A)
    assert members(r"[^a]") == ((0, 0x60), (0x62, 0x10FFFF))
    assert members(r"\p{Co}")[-1][1] == 0x10FFFF


def test_ranges_merge_over_the_surrogates() -> None:
    assert merge([(5, 6), (1, 4), (0xE000, 0xE001), (0xD700, 0xD7FF)]) == ((1, 6), (0xD700, 0xE001))


def test_translated_patterns_cut_alike() -> None:
    """Python's re has ECMAScript's syntax for what we write; the engine itself is asked in test_kinds."""
    for pattern in (tiny.CL100K, tiny.O200K):
        wide = re.compile(to_wide(pattern).replace("[", "[").replace("--", "\\--"))
        splitter = pre_tokenizers.Split(tiny.Regex(pattern), "isolated")
        for text in tiny.texts(120):
            assert [match.group() for match in wide.finditer(text)] == [
                piece for piece, _ in splitter.pre_tokenize_str(text)
            ]


@pytest.mark.parametrize("pattern", [r"(?<!a)b", "^a", "a$", r"(a)\1", r"\bword", "(?P<n>a)", "a)", "[a"])
def test_untranslatable_patterns_are_refused(pattern: str) -> None:
    with pytest.raises((StageFailed, Exception), match="regex"):
        to_wide(pattern)


def test_every_character_composes() -> None:
    rules, nfc = nfc_rules(), normalizers.NFC()
    decomposed = "\n".join(
        unicodedata.normalize("NFD", chr(code)) for code in range(0x20, 0x30000) if not 0xD800 <= code < 0xE000
    )
    assert _apply(rules, decomposed) == nfc.normalize_str(decomposed)


def test_every_hangul_syllable_composes() -> None:
    jamo = unicodedata.normalize("NFD", "".join(map(chr, SYLLABLES)))
    assert _apply(nfc_rules(), jamo) == "".join(map(chr, SYLLABLES))


@pytest.mark.parametrize(
    "text",
    [
        "ᄒᆞᆫ",
        "가\u1176",
        "각\u11a8",
        "가\u11c3",
        "€\u11a8",
        "\u1100\u1100\u1161",
        "ệ a\u0302\u0323",
        "مُحَمَّد",
        "\u0651\u064e",
        "\u05c1\u05b0",
        "i\u0307\u0323",
        "\u0041\u030a\u212b",
    ],
)
def test_difficult_compositions(text: str) -> None:
    assert _apply(nfc_rules(), text) == normalizers.NFC().normalize_str(text)


def test_compatibility_and_case_and_accents() -> None:
    text = "ﬁ ① ｶﾞ Ⅳ ㍿ ﷺ ﾊﾟ １２ ÀÉîõü Ångström İSTANBUL ΑΒΓ Ждё"
    assert _apply(nfkc_rules(), text) == normalizers.NFKC().normalize_str(text)
    assert _apply(lower_rules(), text) == normalizers.Lowercase().normalize_str(text)
    stripped = normalizers.BertNormalizer(
        clean_text=False, handle_chinese_chars=False, strip_accents=True, lowercase=False
    )
    assert _apply(accent_rules(), text) == stripped.normalize_str(text)


def test_corpus_is_fixed_and_wide() -> None:
    texts = corpus(3_000)
    assert texts == corpus(3_000) and corpus(500) == texts[:500]
    assert digest(texts) == digest(corpus(3_000)) != digest(corpus(2_999))
    assert not any("\0" in text or re.search("[\ud800-\udfff]", text) for text in texts)
    scripts = {unicodedata.name(char, "?").split()[0] for text in fixed() for char in text if char.isalpha()}
    assert (
        len(
            scripts
            & {
                "LATIN",
                "CYRILLIC",
                "GREEK",
                "CJK",
                "HIRAGANA",
                "HANGUL",
                "ARABIC",
                "HEBREW",
                "DEVANAGARI",
                "THAI",
                "BENGALI",
                "GEORGIAN",
            }
        )
        == 12
    )
    assert "" in texts and max(map(len, texts)) > 10_000


@given(st.text(max_size=60), st.text(min_size=1, max_size=3), st.text(max_size=60))
def test_shrinking_finds_the_smallest(before: str, needle: str, after: str) -> None:
    assert shortest(before + needle + after, lambda texts: [needle in text for text in texts]) == needle


def test_protobuf_fields() -> None:
    assert list(fields(b"\x08\x96\x01\x12\x02hi\x1d\x00\x00\x80\x3f")) == [
        (1, 150),
        (2, b"hi"),
        (3, b"\x00\x00\x80\x3f"),
    ]
    for damaged in (b"\x12\x05hi", b"\x08\x96", b"\x0b"):
        with pytest.raises(StageFailed, match=r"tokenizer\.model"):
            list(fields(damaged))


def test_cutting_is_left_out_where_pieces_go_over_blanks() -> None:
    plain = tiny.definition(tiny.llama2())
    assert cut_at_blanks(plain) is not plain
    pieces = {f"a▁é{index}": 5_000 + index for index in range(3)}
    over = tiny.reloaded(tiny.llama2(), lambda document: document["model"]["vocab"].update(pieces))
    assert cut_at_blanks(tiny.definition(over)).pre_tokenizer is None
    assert cut_at_blanks(tiny.definition(tiny.gpt2())).pre_tokenizer == tiny.definition(tiny.gpt2()).pre_tokenizer

"""The files a tokenizer may come from: SentencePiece, tiktoken, vocab + merges, tokenizer.json."""

from __future__ import annotations

import base64
import io
import json
import re
from pathlib import Path

import pytest
import sentencepiece
import tiktoken
from tokenizers import Tokenizer

from pipeline.errors import StageFailed
from pipeline.tokenizer import tiktoken as ours
from pipeline.tokenizer.bytelevel import CHAR_TO_BYTE
from pipeline.tokenizer.engine import EngineTokenizer
from pipeline.tokenizer.folder import TokenizerFolder
from pipeline.tokenizer.mtok import Extras, encode_mtok
from pipeline.tokenizer.read import load_definition
from pipeline.tokenizer.sentencepiece import parse

from . import tiny

SAMPLES = [text for text in tiny.texts(200) if "\u2581" not in text]


def _sentencepiece(folder: Path, **options: object) -> sentencepiece.SentencePieceProcessor:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(tiny.TRAINING * 3),
        model_writer=model,
        vocab_size=1_400,
        hard_vocab_limit=False,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
        **options,
    )
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())


def _engine(folder: Path) -> EngineTokenizer:
    file = folder / "tokenizer.mtok"
    file.write_bytes(encode_mtok(load_definition(TokenizerFolder.open(folder)), Extras()))
    return EngineTokenizer(file)


@pytest.mark.parametrize("dummy_prefix", [True, False])
def test_sentencepiece_bpe_is_its_own_library_s(tmp_path: Path, dummy_prefix: bool) -> None:
    library = _sentencepiece(tmp_path, model_type="bpe", byte_fallback=True, add_dummy_prefix=dummy_prefix)
    samples = [text for text in SAMPLES if not re.search("</?s>|<unk>|<0x", text)]  # no specials in its texts
    answers = _engine(tmp_path).encode(samples)
    wrong = [
        (text, library.encode(text), ids)
        for text, ids in zip(samples, answers, strict=True)
        if text and ids != library.encode(text)
    ]
    assert wrong == []


def test_sentencepiece_model_is_read(tmp_path: Path) -> None:
    library = _sentencepiece(tmp_path, model_type="bpe", byte_fallback=True)
    model = parse((tmp_path / "tokenizer.model").read_bytes())
    assert [piece for piece, _, _ in model.pieces] == [library.id_to_piece(i) for i in range(library.vocab_size())]
    assert model.byte_fallback and model.add_dummy_prefix and model.model_type == 2
    assert model.pieces[300][1] == pytest.approx(library.get_score(300))


def test_damaged_sentencepiece_model_is_refused(tmp_path: Path) -> None:
    _sentencepiece(tmp_path, model_type="bpe", byte_fallback=True)
    file = tmp_path / "tokenizer.model"
    file.write_bytes(file.read_bytes()[:-7])
    with pytest.raises(StageFailed, match="cut short"):
        load_definition(TokenizerFolder.open(tmp_path))


def test_sentencepiece_rules_need_tokenizer_json(tmp_path: Path) -> None:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(tiny.TRAINING), model_writer=model, vocab_size=500, hard_vocab_limit=False, minloglevel=2
    )
    (tmp_path / "tokenizer.model").write_bytes(model.getvalue())
    with pytest.raises(StageFailed, match=r"tokenizer\.json"):
        load_definition(TokenizerFolder.open(tmp_path))


def _tiktoken_ranks() -> dict[bytes, int]:
    vocab = json.loads(tiny.byte_level(tiny.split(tiny.CL100K)).to_str())["model"]["vocab"]
    pieces = [piece for piece in vocab if all(char in CHAR_TO_BYTE for char in piece) and piece not in tiny.SPECIALS]
    tokens = [bytes(CHAR_TO_BYTE[char] for char in piece) for piece in sorted(pieces, key=lambda piece: vocab[piece])]
    return {token: rank for rank, token in enumerate(tokens)}


def test_tiktoken_file_is_its_own_library_s(tmp_path: Path) -> None:
    ranks = _tiktoken_ranks()
    lines = "".join(f"{base64.b64encode(token).decode()} {rank}\n" for token, rank in ranks.items())
    (tmp_path / "tiny.tiktoken").write_text(lines, encoding="utf-8")
    specials = {"<|end|>": len(ranks)}
    config = {"added_tokens_decoder": {str(len(ranks)): {"content": "<|end|>", "special": True}}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    library = tiktoken.Encoding("tiny", pat_str=ours.CL100K, mergeable_ranks=ranks, special_tokens=specials)
    samples = [*SAMPLES, "a<|end|>b"]
    expected = [library.encode(text, allowed_special="all") for text in samples]
    assert _engine(tmp_path).encode(samples) == expected


def test_damaged_tiktoken_file_names_the_line() -> None:
    with pytest.raises(StageFailed, match="line 2"):
        ours.read_ranks("YQ== 0\nnot base64\n")


def test_vocab_and_merges(tmp_path: Path) -> None:
    tokenizer = tiny.gpt2()
    document = json.loads(tokenizer.to_str())
    (tmp_path / "vocab.json").write_text(json.dumps(document["model"]["vocab"]), encoding="utf-8")
    merges = "\n".join(" ".join(pair) for pair in document["model"]["merges"])
    (tmp_path / "merges.txt").write_text(f"#version: 0.2\n{merges}\n", encoding="utf-8")
    config = {"eos_token": "</s>", "bos_token": {"content": "<s>"}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    samples = [*SAMPLES, "a</s>b<s>"]
    plain = [text for text in samples if "<|im" not in text and "<unk>" not in text]
    assert _engine(tmp_path).encode(plain) == tiny.ids(tokenizer, plain)


def test_tokenizer_json_wins(tmp_path: Path) -> None:
    tiny.save(tiny.llama2(), tmp_path)
    _sentencepiece(tmp_path, model_type="bpe", byte_fallback=True)
    definition = load_definition(TokenizerFolder.open(tmp_path))
    assert definition.vocabulary() == Tokenizer.from_file(str(tmp_path / "tokenizer.json")).get_vocab(False)


def test_no_tokenizer_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(StageFailed, match=r"no tokenizer\.json.*add the tokenizer's files"):
        load_definition(TokenizerFolder.open(tmp_path))


@pytest.mark.parametrize(
    ("content", "named"), [("{", "not valid JSON"), ("[]", "holds a list"), ("{}", "no tokenizer")]
)
def test_damaged_json(tmp_path: Path, content: str, named: str) -> None:
    (tmp_path / "tokenizer.json").write_text(content, encoding="utf-8")
    with pytest.raises(StageFailed, match=named):
        load_definition(TokenizerFolder.open(tmp_path))

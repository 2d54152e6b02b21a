"""Small tokenizers trained here with the `tokenizers` library, one of each kind, and the texts they are compared on."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import sentencepiece as spm
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from pipeline.tokenizer.definition import Definition
from pipeline.tokenizer.engine import EngineTokenizer
from pipeline.tokenizer.mtok import Extras, encode_mtok
from pipeline.tokenizer.parity.corpus import CODE, LANGUAGES, fixed
from pipeline.tokenizer.sentencepiece import parse

CL100K = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
O200K = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TRAINING = [*LANGUAGES, *CODE] * 3
SPECIALS = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"]
SIZE = 900


def texts(longest: int = 400) -> list[str]:
    """The corpus's fixed texts, without the huge ones."""
    return [text for text in fixed() if len(text) <= longest]


def byte_level(pre_tokenizer: Any, normalizer: Any = None) -> Tokenizer:
    """Byte-level BPE behind any words."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer, tokenizer.decoder = normalizer, decoders.ByteLevel()
    tokenizer.pre_tokenizer = pre_tokenizer
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=SIZE, special_tokens=SPECIALS, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TRAINING, trainer)
    return tokenizer


def split(pattern: str, behavior: str = "isolated") -> Any:
    """A regex's words, then bytes."""
    words = pre_tokenizers.Split(Regex(pattern), behavior, invert=behavior == "removed")
    return pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def gpt2() -> Tokenizer:
    """GPT-2's words."""
    return byte_level(pre_tokenizers.ByteLevel(add_prefix_space=False))


def smol() -> Tokenizer:
    """SmolLM2's words: single digits, then GPT-2's."""
    digits = pre_tokenizers.Digits(individual_digits=True)
    return byte_level(pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)]))


def qwen() -> Tokenizer:
    """NFC and cl100k-like words."""
    return byte_level(split(CL100K), normalizers.NFC())


def llama2() -> Tokenizer:
    """SentencePiece BPE with a leading blank and byte fallback, as Llama 2's tokenizer.json says it."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    trainer = trainers.BpeTrainer(vocab_size=SIZE, show_progress=False, special_tokens=[*SPECIALS, *BYTES])
    tokenizer.train_from_iterator(TRAINING, trainer)
    return reloaded(tokenizer, lambda document: document.update(pre_tokenizer=None) or _plain_bytes(document))


def gemma() -> Tokenizer:
    """SentencePiece BPE without a leading blank."""
    tokenizer = llama2()
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return tokenizer


def unigram() -> Tokenizer:
    """T5-like: Unigram over Metaspace."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    trainer = trainers.UnigramTrainer(vocab_size=SIZE, special_tokens=SPECIALS, unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator(TRAINING, trainer)
    return tokenizer


def charsmap(rules: str = "nmt_nfkc") -> bytes:
    """SentencePiece's compiled normalisation, as a model trained with these rules carries it (XLM-R's: nmt_nfkc)."""
    model = io.BytesIO()
    lines = iter([line for text in TRAINING for line in text.splitlines() if line])
    spm.SentencePieceTrainer.train(
        sentence_iterator=lines, model_writer=model, vocab_size=SIZE, normalization_rule_name=rules,
        hard_vocab_limit=False, minloglevel=2,
    )  # fmt: skip
    return parse(model.getvalue()).charsmap


def xlm_roberta() -> Tokenizer:
    """XLM-R: SentencePiece's normalisation, Unigram over words, ids from 0: <s>, <pad>, </s>, <unk>."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Precompiled(charsmap())
    marks = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), marks])
    tokenizer.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(vocab_size=SIZE, special_tokens=special, unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator(TRAINING, trainer)
    return tokenizer


def bert() -> Tokenizer:
    """BERT uncased: cleaning, lower case, no accents, WordPiece."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##", cleanup=False)
    trainer = trainers.WordPieceTrainer(
        vocab_size=SIZE, special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]"], show_progress=False
    )
    tokenizer.train_from_iterator(TRAINING, trainer)
    return tokenizer


BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def _plain_bytes(document: dict[str, Any]) -> None:
    """Byte pieces are vocabulary, not added tokens."""
    document["added_tokens"] = [entry for entry in document["added_tokens"] if entry["content"] not in BYTES]


def reloaded(tokenizer: Tokenizer, change: Any) -> Tokenizer:
    """The tokenizer after `change` has edited its JSON in place."""
    document = json.loads(tokenizer.to_str())
    change(document)
    return Tokenizer.from_str(json.dumps(document))


def with_tokens(tokenizer: Tokenizer, *tokens: AddedToken) -> Tokenizer:
    """The tokenizer with further added tokens."""
    tokenizer.add_tokens(list(tokens))
    return tokenizer


def definition(tokenizer: Tokenizer) -> Definition:
    """As our writers see it."""
    return Definition.of(json.loads(tokenizer.to_str()))


def engine(tokenizer: Tokenizer, folder: Path, extras: Extras | None = None) -> EngineTokenizer:
    """The real engine on what we write for the tokenizer."""
    file = folder / "tokenizer.mtok"
    file.write_bytes(encode_mtok(definition(tokenizer), extras or Extras()))
    return EngineTokenizer(file)


def ids(tokenizer: Tokenizer, samples: Sequence[str]) -> list[list[int]]:
    """Hugging Face's ids."""
    return [encoded.ids for encoded in tokenizer.encode_batch(list(samples), add_special_tokens=False)]


def wrong(tokenizer: Tokenizer, folder: Path, samples: Sequence[str]) -> list[tuple[str, list[int], list[int]]]:
    """(text, Hugging Face's ids, the engine's ids) where they differ, shortest first."""
    answers = engine(tokenizer, folder).encode(samples)
    cases = zip(samples, ids(tokenizer, samples), answers, strict=True)
    return sorted((case for case in cases if case[1] != case[2]), key=lambda case: len(case[0]))


def crashing(data: bytes, piece: str) -> bytes:
    """A tokenizer.mtok whose entry for `piece` has an id gigabytes past the table: the engine writes there, unchecked.

    Not a file cut short: what the engine reads behind its end is up to chance.
    """
    entry = len(piece.encode()).to_bytes(2, "little") + piece.encode()
    at = data.index(entry) + len(entry)
    return data[:at] + (0x7FFFFFFF).to_bytes(4, "little") + data[at + 4 :]


def save(tokenizer: Tokenizer, folder: Path, config: Mapping[str, Any] | None = None, template: str = "") -> Path:
    """A normalised checkpoint folder."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(dict(config or {})), encoding="utf-8")
    if template:
        (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    return folder

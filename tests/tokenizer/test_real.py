"""The claim itself, on real tokenizers: the same ids, the same text, the same prompts, the same ends."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.tokenizer.build import write
from pipeline.tokenizer.folder import TokenizerFolder
from pipeline.tokenizer.parity import check_parity
from pipeline.tokenizer.parity.corpus import corpus

from .conftest import Fetch

TEXTS = 20_000
REAL = ("qwen3", "llama2", "llama3_1", "gemma3", "deepseek_v3", "gpt4o")
TEXT = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=20)
SIZES = {  # the models' own vocabularies
    "qwen3": 151_669,
    "llama2": 32_000,
    "llama3": 128_256,
    "llama3_1": 128_256,
    "gemma3": 262_144,
    "gemini": 256_000,
    "deepseek_v3": 128_815,
    "gpt4o": 200_019,
    "gptoss": 200_019,
    "gpt35turbo": 100_277,
    "claude": 65_000,
}
MORE = ("gptoss", "gpt35turbo", "claude", "gemini", "llama3")


def test_smollm2_is_equal(smollm2: Path, tmp_path: Path) -> None:
    write(TokenizerFolder.open(smollm2), tmp_path)
    parity = check_parity(tmp_path, smollm2, TEXTS)
    assert parity.equal, parity.examples
    assert parity.texts == TEXTS and parity.conversations >= 40 and parity.refused == 0


EDGES = tuple("\x7f\x80\u07ff\u0800\ud7ff\ue000\uffff\U00010000\U0010ffff\U000e01ef\ufffd")


def test_the_edges_of_utf_8_and_any_text_are_equal(smollm2: Path, tmp_path: Path) -> None:
    """First and last characters of each length; then what hypothesis finds."""
    write(TokenizerFolder.open(smollm2), tmp_path)
    edges = [one + between + other for one in EDGES for other in EDGES for between in ("", " ", "a")]
    parity = check_parity(tmp_path, smollm2, texts=[*EDGES, *edges, "\u0301" * 50, "\xc3\x28"], conversations=())
    assert parity.equal, parity.examples

    @settings(max_examples=2, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(st.lists(TEXT, min_size=500, max_size=500))
    def check(texts: list[str]) -> None:
        found = check_parity(tmp_path, smollm2, texts=texts, conversations=())
        assert found.equal, found.examples

    check()


@pytest.mark.parametrize("name", REAL)
def test_npm_tokenizer_is_equal(npm_tokenizer: Fetch, name: str, tmp_path: Path) -> None:
    _prove(npm_tokenizer(name), tmp_path, TEXTS)


@pytest.mark.slow
@pytest.mark.parametrize("name", MORE)
def test_further_npm_tokenizer_is_equal(npm_tokenizer: Fetch, name: str, tmp_path: Path) -> None:
    _prove(npm_tokenizer(name), tmp_path, 3_000)


def _prove(folder: Path, out: Path, count: int) -> None:
    facts = write(TokenizerFolder.open(folder), out)
    assert facts.vocab_size >= SIZES[folder.name]
    parity = check_parity(out, folder, count)
    assert parity.equal, parity.examples


def test_the_file_says_the_stop_ids(smollm2: Path, tmp_path: Path) -> None:
    facts = write(TokenizerFolder.open(smollm2), tmp_path)
    kind, counts, ids = (tmp_path / "tokenizer.mtok").read_bytes().split(b"\n", 3)[:3]
    assert (kind, counts, ids) == (b"430 4", b"0 1 0", b"2")
    assert facts.stop_sources == {"2": ["tokenizer_config.json"]}


def test_writing_twice_gives_the_same_bytes(npm_tokenizer: Fetch, tmp_path: Path) -> None:
    folder = TokenizerFolder.open(npm_tokenizer("qwen3"))
    outs = [tmp_path / "one", tmp_path / "two"]
    for out in outs:
        out.mkdir()
        write(folder, out)
    for file in ("tokenizer.mtok", "tokenizer.json"):
        assert (outs[0] / file).read_bytes() == (outs[1] / file).read_bytes()


def test_a_wrong_token_table_is_found(smollm2: Path, tmp_path: Path) -> None:
    """The check can fail: two pieces swapped in the written file."""
    document = json.loads((smollm2 / "tokenizer.json").read_text(encoding="utf-8"))
    vocab = document["model"]["vocab"]
    vocab["Ġthe"], vocab["Ġof"] = vocab["Ġof"], vocab["Ġthe"]
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    (damaged / "tokenizer.json").write_text(json.dumps(document), encoding="utf-8")
    (damaged / "tokenizer_config.json").write_bytes((smollm2 / "tokenizer_config.json").read_bytes())
    out = tmp_path / "out"
    out.mkdir()
    write(TokenizerFolder.open(damaged), out)
    parity = check_parity(out, smollm2, texts=[*corpus(50), "some of the words"])
    assert parity.encode_differences >= 1 and parity.decode_differences >= 1
    assert parity.examples[0].example in ("' of'", "' the'")

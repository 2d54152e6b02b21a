"""From a folder to the file and the facts: stop ids, prefixes, refusals, the older format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, normalizers, pre_tokenizers
from tokenizers.processors import TemplateProcessing

from pipeline.errors import StageFailed, UserError
from pipeline.tokenizer.build import PLAIN_TEMPLATE, build, write
from pipeline.tokenizer.definition import Definition
from pipeline.tokenizer.engine import EngineTokenizer
from pipeline.tokenizer.facts import read_facts
from pipeline.tokenizer.folder import TokenizerFolder
from pipeline.tokenizer.mtok import Extras, encode_mtok
from pipeline.tokenizer.parity import check_parity

from . import tiny

TEMPLATE = "{% for m in messages %}{{ m['role'] }}:{{ m['content'] }}\n{% endfor %}"
CONFIG = {"bos_token": "<s>", "eos_token": {"content": "</s>"}}


def _with_bos(tokenizer: Tokenizer, single: str = "<s> $A") -> Tokenizer:
    tokenizer.post_processor = TemplateProcessing(single=single, special_tokens=[("<s>", 1), ("</s>", 2)])
    return tokenizer


def _facts(folder: Path, **options: Any) -> Any:
    return build(TokenizerFolder.open(folder), **options)[1]


def test_stop_ids_come_from_everywhere_with_their_sources(tmp_path: Path) -> None:
    folder = tiny.save(tiny.gpt2(), tmp_path, CONFIG)
    (folder / "generation_config.json").write_text('{"eos_token_id": [2, 4]}', encoding="utf-8")
    (folder / "config.json").write_text('{"text_config": {"eos_token_id": 3}}', encoding="utf-8")
    facts = _facts(folder)
    assert facts.stop_ids == [2, 3, 4]
    assert facts.stop_sources == {
        "2": ["generation_config.json", "tokenizer_config.json"],
        "3": ["config.json"],
        "4": ["generation_config.json"],
    }


def test_unknown_eos_is_named(tmp_path: Path) -> None:
    with pytest.raises(StageFailed, match="'<nope>'"):
        _facts(tiny.save(tiny.gpt2(), tmp_path, {"eos_token": "<nope>"}))


def test_bos_is_a_prefix_only_without_a_template(tmp_path: Path) -> None:
    bare = tiny.save(_with_bos(tiny.gpt2()), tmp_path / "bare", CONFIG)
    chat = tiny.save(_with_bos(tiny.gpt2()), tmp_path / "chat", CONFIG, TEMPLATE)
    assert (_facts(bare).prefix, _facts(chat).prefix) == ([1], [])


def test_what_comes_after_a_text_cannot_be_said(tmp_path: Path) -> None:
    with pytest.raises(StageFailed, match=r"ids \[2\] after a text"):
        _facts(tiny.save(_with_bos(tiny.gpt2(), "<s> $A </s>"), tmp_path, CONFIG))


def test_template_file_wins_over_the_config(tmp_path: Path) -> None:
    folder = tiny.save(tiny.gpt2(), tmp_path, {**CONFIG, "chat_template": "{{ 'config' }}"}, TEMPLATE)
    assert _facts(folder).chat_template == TEMPLATE


def test_of_named_templates_the_default_is_taken(tmp_path: Path) -> None:
    named = [{"name": "tool_use", "template": "x"}, {"name": "default", "template": TEMPLATE}]
    assert _facts(tiny.save(tiny.gpt2(), tmp_path / "a", {"chat_template": named})).chat_template == TEMPLATE
    with pytest.raises(StageFailed, match="tool_use"):
        _facts(tiny.save(tiny.gpt2(), tmp_path / "b", {"chat_template": named[:1]}))


def test_template_that_the_engine_cannot_run_is_refused_unless_a_plain_one_is_asked_for(tmp_path: Path) -> None:
    folder = tiny.save(tiny.gpt2(), tmp_path, CONFIG, "{% for m in messages %}{{ loop.index % 2 }}{% endfor %}")
    with pytest.raises(StageFailed, match=r"Mod.*target\.plain_template=true"):
        _facts(folder)
    facts = _facts(folder, plain_template=True)
    assert facts.chat_template == PLAIN_TEMPLATE
    assert len(facts.fallbacks) == 1 and "Mod" in facts.fallbacks[0]


def test_facts_are_read_back(tmp_path: Path) -> None:
    folder = tiny.save(tiny.gpt2(), tmp_path / "in", CONFIG, TEMPLATE + "\n")
    out = tmp_path / "out"
    out.mkdir()
    write(TokenizerFolder.open(folder), out)
    assert read_facts(out) == _facts(folder)
    (out / "tokenizer.json").write_text("{}", encoding="utf-8")
    with pytest.raises(StageFailed, match="facts of a tokenizer"):
        read_facts(out)


def test_unknown_format_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="tokenizer_format=gguf"):
        _facts(tiny.save(tiny.gpt2(), tmp_path), form="gguf")


def _changed(**parts: Any) -> Tokenizer:
    return tiny.reloaded(
        tiny.gpt2(),
        lambda document: [
            document[name].update(value)
            if isinstance(value, dict) and isinstance(document[name], dict)
            else document.update({name: value})
            for name, value in parts.items()
        ],
    )


REFUSED = (
    (tiny.with_tokens(tiny.gpt2(), AddedToken("<w>", single_word=True)), "single_word"),
    (tiny.byte_level(pre_tokenizers.ByteLevel(), normalizers.Replace(tiny.Regex("a+"), "b")), "regular expression"),
    (tiny.byte_level(pre_tokenizers.ByteLevel(), normalizers.NFD()), "normalizer NFD"),
    (tiny.byte_level(pre_tokenizers.ByteLevel(), normalizers.Strip()), "Strip on the right"),
    (
        tiny.byte_level(pre_tokenizers.Sequence([pre_tokenizers.UnicodeScripts(), pre_tokenizers.ByteLevel()])),
        "UnicodeScripts",
    ),
    (tiny.byte_level(tiny.split(r"(?<=a)b|.")), r"\(\?<="),
    (tiny.byte_level(tiny.split(r"a$|[^a]|a")), "anchor"),
    (_changed(model={"dropout": 0.1}), "dropout"),
    (_changed(model={"end_of_word_suffix": "</w>"}), "end_of_word_suffix"),
)


@pytest.mark.parametrize(("tokenizer", "named"), REFUSED, ids=[named for _, named in REFUSED])
def test_what_the_format_cannot_say_is_named(tokenizer: Tokenizer, named: str, tmp_path: Path) -> None:
    with pytest.raises(StageFailed, match=named):
        _facts(tiny.save(tokenizer, tmp_path))


def test_a_piece_is_missing(tmp_path: Path) -> None:
    folder = tiny.save(tiny.gpt2(), tmp_path)
    document = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    document["model"]["merges"].append(["zz", "top"])
    (folder / "tokenizer.json").write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(StageFailed, match="a merge uses the piece 'zz'"):
        _facts(folder)


def test_gaps_between_ids_decode_to_nothing(tmp_path: Path) -> None:
    """An id beyond the table's size would be written out of bounds by the engine."""
    document = json.loads(tiny.gpt2().to_str())
    document["added_tokens"].append({"id": 2000, "content": "<far>", "special": True})
    file = tmp_path / "tokenizer.mtok"
    file.write_bytes(encode_mtok(Definition.of(document), Extras()))
    engine = EngineTokenizer(file)
    assert engine.encode(["a<far>"])[0][-1] == 2000
    assert engine.decode([[2000], [1500]]) == [b"<far>", b""]


def test_old_format_of_sentencepiece(tmp_path: Path) -> None:
    """Equal ids; only byte pieces stream as their names there."""
    folder = tiny.save(tiny.llama2(), tmp_path / "in", CONFIG)
    out = tmp_path / "out"
    out.mkdir()
    facts = write(TokenizerFolder.open(folder), out, "txt")
    assert facts.file == "tokenizer.txt" and (out / "tokenizer.txt").read_bytes().startswith(b"430 0\n5 1 0\n")
    samples = [text for text in tiny.texts() if "<" not in text and text and "\u2581" not in text]
    assert check_parity(out, folder, texts=samples).encode_differences == 0


def test_old_format_of_byte_level_words(tmp_path: Path) -> None:
    folder = tiny.save(tiny.qwen(), tmp_path / "in", CONFIG)
    out = tmp_path / "out"
    out.mkdir()
    write(TokenizerFolder.open(folder), out, "txt")
    samples = ["Hello world", "plain words, and a comma.", "<|im_start|>user<|im_end|>", "x = 1"]
    assert EngineTokenizer(out / "tokenizer.txt").encode(samples) == tiny.ids(tiny.qwen(), samples)


@pytest.mark.parametrize("make", [tiny.gemma, tiny.unigram])
def test_old_format_cannot_say(make: Any, tmp_path: Path) -> None:
    with pytest.raises(StageFailed, match="tokenizer_format=mtok"):
        _facts(tiny.save(make(), tmp_path), form="txt")

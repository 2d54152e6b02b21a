"""Streaming and the cache: the text, the ids and what is computed again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.errors import UserError
from pipeline.mnn.runner import Engine
from pipeline.use.sampler import GREEDY, Sampler, Sampling
from pipeline.use.session import Answer, Request, Session

PROMPT = [1, 5, 100, 256, 30, 40]


@pytest.fixture(scope="module")
def engine(product: Path) -> Iterator[Engine]:
    with Engine(product) as running:
        yield running


@pytest.fixture
def session(engine: Engine) -> Session:
    return Session(engine)


def _forced(engine: Engine, ids: list[int]) -> Sampler:
    """A sampler that says `ids` one after the other: the bytes of an answer are then known."""

    class Forced(Sampler):
        def pick(self, logits: object, history: object) -> int:
            return ids.pop(0)

    return Forced(GREEDY)


def test_greedy_answers_equal_the_engines_own(session: Session) -> None:
    answer = session.complete(Request(PROMPT, 10), Sampler(GREEDY))
    assert answer.ids == session.engine.generate(PROMPT, 10)
    assert answer.reason == "length"


def test_pieces_add_up_to_the_text(session: Session) -> None:
    answer = Answer()
    pieces = list(session.stream(Request(PROMPT, 20), Sampler(Sampling(temperature=2.0), 3), answer))
    assert "".join(pieces) == answer.text
    assert all(pieces)


def test_a_stop_token_ends_the_answer_and_is_not_shown(session: Session) -> None:
    answer = session.complete(Request(PROMPT, 9), _forced(session.engine, [ord("o"), ord("k"), 257, 65]))
    assert (answer.text, answer.reason, answer.ids) == ("ok", "stop", [ord("o"), ord("k"), 257])


def test_characters_come_whole(session: Session) -> None:
    ids = list("aé😀b".encode())
    answer = Answer()
    pieces = list(session.stream(Request(PROMPT, len(ids)), _forced(session.engine, ids), answer))
    assert pieces == ["a", "é", "😀", "b"]


def test_an_incomplete_character_at_the_end_is_marked(session: Session) -> None:
    answer = session.complete(Request(PROMPT, 2), _forced(session.engine, [ord("a"), 0xF0]))
    assert answer.text == "a�"


@pytest.mark.parametrize(
    ("text", "stops", "expected", "reason"),
    [
        ("one END two", ("END",), "one ", "stop"),
        ("one EN two", ("END",), "one EN two", "length"),
        ("ababac", ("abac",), "ab", "stop"),
        ("abc", ("c", "b"), "a", "stop"),
        ("ab", ("b",), "a", "stop"),
        ("one E", ("END",), "one E", "length"),
    ],
)
def test_stop_strings(session: Session, text: str, stops: tuple[str, ...], expected: str, reason: str) -> None:
    ids = list(text.encode())
    answer = Answer()
    pieces = list(session.stream(Request(PROMPT, len(ids), stops), _forced(session.engine, ids), answer))
    assert "".join(pieces) == answer.text == expected
    assert answer.reason == reason


def test_a_longer_conversation_computes_only_what_is_new(session: Session) -> None:
    first = session.complete(Request(PROMPT, 5), Sampler(GREEDY))
    longer = [*PROMPT, *first.ids[:4], 77, 78]
    second = session.complete(Request(longer, 5), Sampler(GREEDY))
    assert second.cached == len(PROMPT) + 4
    assert second.ids == session.engine.generate(longer, 5)


def test_another_continuation_takes_the_old_one_back(session: Session) -> None:
    session.complete(Request([*PROMPT, 9, 9, 9], 5), Sampler(GREEDY))
    other = [*PROMPT, 50, 51]
    answer = session.complete(Request(other, 6), Sampler(GREEDY))
    assert answer.cached == len(PROMPT)
    assert answer.ids == session.engine.generate(other, 6)


def test_the_same_prompt_again(session: Session) -> None:
    first = session.complete(Request(PROMPT, 6), Sampler(GREEDY))
    again = session.complete(Request(PROMPT, 6), Sampler(GREEDY))
    assert again.cached == len(PROMPT) - 1
    assert again.ids == first.ids


def test_nothing_in_common_starts_afresh(session: Session) -> None:
    session.complete(Request(PROMPT, 6), Sampler(GREEDY))
    answer = session.complete(Request([200, 201], 6), Sampler(GREEDY))
    assert answer.cached == 0
    assert answer.ids == session.engine.generate([200, 201], 6)


def test_fresh_does_not_look_at_the_cache(session: Session) -> None:
    session.complete(Request(PROMPT, 6), Sampler(GREEDY))
    assert session.complete(Request(PROMPT, 6, fresh=True), Sampler(GREEDY)).cached == 0


def test_cancelling_ends_between_tokens_and_the_cache_stays_right(session: Session) -> None:
    answer = Answer()
    request = Request(PROMPT, 50, cancelled=lambda: len(answer.ids) == 3)
    list(session.stream(request, Sampler(GREEDY), answer))
    assert (answer.reason, len(answer.ids)) == ("cancelled", 3)
    expected = session.engine.generate([*PROMPT, 8], 4)
    session.cached = []
    session.complete(Request(PROMPT, 3), Sampler(GREEDY))
    assert session.complete(Request([*PROMPT, 8], 4), Sampler(GREEDY)).ids == expected


def test_an_abandoned_stream_leaves_a_right_cache(session: Session) -> None:
    stream = session.stream(Request(PROMPT, 50), Sampler(Sampling(temperature=3.0), 1), Answer())
    next(stream)
    stream.close()
    longer = [*PROMPT, 8]
    found = session.complete(Request(longer, 4), Sampler(GREEDY)).ids
    assert found == session.engine.generate(longer, 4)


def test_a_prompt_that_fills_the_model_is_refused(session: Session) -> None:
    with pytest.raises(UserError, match="512 tokens, but the model knows 512 positions"):
        session.complete(Request([5] * 512, 1), Sampler(GREEDY))


def test_an_answer_ends_where_the_model_ends(session: Session) -> None:
    assert len(session.complete(Request([5] * 510, 50), Sampler(GREEDY)).ids) == 2


def test_an_empty_prompt_is_refused(session: Session) -> None:
    with pytest.raises(UserError, match="empty"):
        session.complete(Request([], 1), Sampler(GREEDY))


def test_speeds_count_computed_tokens_only() -> None:
    answer = Answer(prompt_tokens=30, cached=20, ids=[1] * 11, prefill_seconds=2.0, decode_seconds=5.0)
    assert (answer.prefill_speed, answer.decode_speed) == (5.0, 2.0)

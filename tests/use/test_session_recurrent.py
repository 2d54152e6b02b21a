"""A conversation with a model that has a recurrent state: its cache goes on, or starts afresh; it is never cut."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pipeline.mnn.runner import Engine
from pipeline.use.sampler import GREEDY, Sampler
from pipeline.use.session import Answer, Request, Session
from tests.graph import coverage
from tests.graph.product import build
from tests.tiny_models import random_ids, write_tiny_model

coverage.quiet()
PROMPT = random_ids(12)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    folder = tmp_path_factory.mktemp("lfm2")
    product = build(write_tiny_model("lfm2", folder / "source"), folder / "work")
    with Engine(product, {"precision": "high", "memory": "high", "thread_num": 1}) as running:
        yield running


@pytest.fixture
def session(engine: Engine) -> Session:
    return Session(engine)


def test_a_longer_conversation_computes_only_what_is_new(session: Session) -> None:
    first = session.complete(Request(PROMPT, 5), Sampler(GREEDY))
    for more in ([77, 78], [79]):
        longer = [*session.cached, *more]
        answer = session.complete(Request(longer, 5), Sampler(GREEDY))
        assert answer.cached == len(longer) - len(more)
        expected = session.engine.generate(longer, 5)
        assert answer.ids == expected
        session.cached = []
        session.complete(Request(longer, 5), Sampler(GREEDY))
    assert len(first.ids) == 5


@pytest.mark.parametrize("prompt", [[*PROMPT[:8], 50, 51], PROMPT, PROMPT[:8], PROMPT[:1]])
def test_any_other_prompt_starts_afresh(session: Session, prompt: list[int]) -> None:
    session.complete(Request([*PROMPT, 9, 9, 9], 5), Sampler(GREEDY))
    answer = session.complete(Request(prompt, 6), Sampler(GREEDY))
    assert answer.cached == 0
    assert answer.ids == session.engine.generate(prompt, 6)


def test_after_a_cancelled_answer_the_state_is_that_of_the_cache(session: Session) -> None:
    stream = session.stream(Request(PROMPT, 50), Sampler(GREEDY), answer := Answer())
    for _ in range(3):
        next(stream, None)
    stream.close()
    longer = [*session.cached, 8]
    found = session.complete(Request(longer, 4), Sampler(GREEDY))
    assert found.cached == len(longer) - 1
    assert found.ids == session.engine.generate(longer, 4)
    assert answer.ids

"""What a request may say."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.use.sampler import GREEDY, Sampling
from pipeline.use.server.api import BadRequest, parse

TALK = {"messages": [{"role": "user", "content": "Hi"}]}
PRODUCT = Sampling(steps=("topK", "temperature"), top_k=20, temperature=0.8)


def _chat(**fields: Any) -> Any:
    return parse({**TALK, **fields}, "chat", "tiny")


def test_a_plain_request_leaves_the_products_sampler() -> None:
    ask = _chat()
    assert ask.sampling(PRODUCT) == PRODUCT
    assert (ask.stream, ask.max_tokens, ask.seed, ask.stops) == (False, None, None, ())


def test_fields_change_the_sampler_and_switch_their_step_on() -> None:
    sampling = _chat(temperature=0.3, top_p=0.5, min_p=0.1, top_k=7, repetition_penalty=1.2).sampling(PRODUCT)
    assert sampling.steps == ("penalty", "topP", "min_p", "topK", "temperature")
    values = (sampling.temperature, sampling.top_p, sampling.min_p, sampling.top_k, sampling.repetition_penalty)
    assert values == (0.3, 0.5, 0.1, 7, 1.2)


def test_temperature_zero_is_greedy() -> None:
    assert _chat(temperature=0).sampling(PRODUCT).greedy


def test_a_temperature_makes_a_greedy_product_draw() -> None:
    assert not _chat(temperature=0.7).sampling(GREEDY).greedy


def test_null_is_as_good_as_absent() -> None:
    assert _chat(temperature=None, stop=None, seed=None).sampling(PRODUCT) == PRODUCT


def test_content_may_be_a_list_of_texts() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert _chat(messages=[{"role": "user", "content": parts}]).messages[0]["content"] == "ab"


def test_the_newer_name_of_the_limit_wins() -> None:
    assert _chat(max_tokens=5, max_completion_tokens=7).max_tokens == 7


@pytest.mark.parametrize(("stop", "expected"), [("x", ("x",)), (["a", "b"], ("a", "b")), ([], ())])
def test_stops(stop: Any, expected: tuple[str, ...]) -> None:
    assert _chat(stop=stop).stops == expected


def test_a_completion_takes_one_prompt() -> None:
    assert parse({"prompt": "a"}, "text", "tiny").prompt == "a"
    assert parse({"prompt": ["a"]}, "text", "tiny").prompt == "a"


def test_pictures_are_parts_of_a_message() -> None:
    url = "data:image/png;base64,aaaa"
    parts = [{"type": "text", "text": "What is "}, {"type": "image_url", "image_url": {"url": url, "detail": "low"}}]
    ask = parse({"messages": [{"role": "user", "content": [*parts, {"type": "text", "text": "?"}]}]}, "chat", "tiny")
    assert ask.messages[0]["content"] == "What is <img>0</img>?"
    assert ask.pictures == (url,)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"tools": []}, "tools"),
        ({"logprobs": True, "response_format": {}}, "logprobs, response_format"),
        ({"model": "gpt-9"}, "gpt-9"),
        ({"n": 2}, "n"),
        ({"temperature": 2.5}, "temperature"),
        ({"temperature": "1"}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"top_p": -0.1}, "top_p"),
        ({"top_k": 0}, "top_k"),
        ({"min_p": 7}, "min_p"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"seed": "a"}, "seed"),
        ({"stream": 1}, "stream"),
        ({"stream_options": {"x": 1}}, "stream_options"),
        ({"stop": ["a"] * 5}, "stop"),
        ({"stop": [""]}, "stop"),
        ({"stop": 3}, "stop"),
        ({"logit_bias": {"a": 1}}, "logit_bias"),
        ({"logit_bias": {"1": 101}}, "logit_bias"),
        ({"logit_bias": [1]}, "logit_bias"),
        ({"messages": []}, "messages"),
        ({"messages": "Hi"}, "messages"),
        ({"messages": [{"role": "user"}]}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "video_url"}]}]}, "text"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "image_url"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "/etc/passwd"}]}]}, "data: URL"),
        ({"messages": [{"role": "tool", "content": "x", "tool_call_id": "1"}]}, "tool_call_id"),
    ],
)
def test_what_is_refused_is_named(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(BadRequest, match=named):
        _chat(**fields)


@pytest.mark.parametrize("body", [None, [], "x", {}, {"prompt": ""}, {"prompt": ["a", "b"]}, {"prompt": 3}])
def test_bodies_that_are_no_completion(body: Any) -> None:
    with pytest.raises(BadRequest):
        parse(body, "text", "tiny")

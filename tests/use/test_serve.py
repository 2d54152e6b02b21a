"""The server as a process of its own, through the official client and by hand."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openai
import psutil
import pytest

from pipeline.__main__ import main
from pipeline.mnn.runner import Engine
from pipeline.use.serve import TOKEN_VARIABLE

MESSAGES: Any = [{"role": "user", "content": "Hi"}]
# An answer that does not end by itself within a test.
LONG = {"max_tokens": 400, "logit_bias": {"257": -100}, "temperature": 1.0}


@contextmanager
def serving(product: Path, *options: str, token: str = "") -> Iterator[tuple[str, subprocess.Popen[str]]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "pipeline", "serve", str(product), "--port", str(port), *options]
    environment = {**os.environ, TOKEN_VARIABLE: token}
    process = subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        _wait_for(f"http://127.0.0.1:{port}/health", process)
        yield f"http://127.0.0.1:{port}", process
    finally:
        process.terminate()
        process.communicate(timeout=30)


def _wait_for(url: str, process: subprocess.Popen[str]) -> None:
    for _ in range(300):
        assert process.poll() is None, process.communicate()[0]
        try:
            urllib.request.urlopen(url, timeout=1).close()
            return
        except OSError:
            time.sleep(0.1)
    raise AssertionError("the server did not start")


@pytest.fixture(scope="module")
def server(product: Path) -> Iterator[str]:
    with serving(product, "--queue", "100", "--workers", "2", "--max-body", "20000") as (url, _):
        yield url


@pytest.fixture(scope="module")
def client(server: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server}/v1", api_key="none", max_retries=0, timeout=60)


def _post(url: str, body: bytes, **headers: str) -> tuple[int, dict[str, Any]]:
    request = urllib.request.Request(url, body, {"Content-Type": "application/json", **headers})
    try:
        with urllib.request.urlopen(request, timeout=60) as reply:
            return reply.status, json.loads(reply.read())
    except urllib.error.HTTPError as error:
        content = error.read()
        return error.code, json.loads(content) if content.startswith(b"{") else {}


@pytest.fixture(scope="module")
def expected(product: Path) -> str:
    """The engine's own greedy answer."""
    with Engine(product) as engine:
        return engine.detokenize(engine.generate(engine.tokenize(engine.apply_template(MESSAGES)), 8))


def test_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["tiny"]


def test_a_chat(client: openai.OpenAI, expected: str) -> None:
    reply = client.chat.completions.create(model="tiny", messages=MESSAGES, max_tokens=8, temperature=0, seed=1)
    assert reply.choices[0].message.content == expected
    assert reply.choices[0].finish_reason == "length"
    assert reply.usage is not None
    assert reply.usage.completion_tokens == 8
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + 8


def test_a_streamed_chat(client: openai.OpenAI, expected: str) -> None:
    options: Any = {"include_usage": True}
    stream = client.chat.completions.create(
        model="tiny", messages=MESSAGES, max_tokens=8, temperature=0, seed=1, stream=True, stream_options=options
    )
    chunks = list(stream)
    texts = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(texts) == expected
    assert len([text for text in texts if text]) > 1
    assert chunks[-2].choices[0].finish_reason == "length"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 8


def test_a_completion_and_a_stop_string(client: openai.OpenAI, product: Path) -> None:
    with Engine(product) as engine:
        text = engine.detokenize(engine.generate(engine.tokenize("Hello"), 8))
    reply = client.completions.create(model="tiny", prompt="Hello", max_tokens=8, temperature=0)
    assert reply.choices[0].text == text
    stopped = client.completions.create(model="tiny", prompt="Hello", max_tokens=8, temperature=0, stop=text[2])
    assert stopped.choices[0].text == text[: text.index(text[2])]
    assert stopped.choices[0].finish_reason == "stop"


def test_a_seed_repeats(client: openai.OpenAI) -> None:
    create = client.completions.create
    texts = [
        create(model="tiny", prompt="Hello", max_tokens=12, temperature=2.0, seed=seed).choices[0].text
        for seed in (5, 5, 6, 7)
    ]
    assert texts[0] == texts[1]
    assert len(set(texts)) > 1


def test_unsupported_fields_are_named(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="logprobs"):
        client.chat.completions.create(model="tiny", messages=MESSAGES, logprobs=True)
    with pytest.raises(openai.BadRequestError, match="gpt"):
        client.chat.completions.create(model="gpt", messages=MESSAGES)


def test_a_prompt_that_does_not_fit_is_refused_even_in_a_stream(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="512 positions"):
        client.completions.create(model="tiny", prompt="x" * 600, stream=True)


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"{", {}, 400),
        (b"[]", {}, 400),
        (b'{"prompt": "a"}', {"Content-Type": "text/plain"}, 415),
        (b'{"prompt": "' + b"a" * 30000 + b'"}', {}, 413),
        (b'{"prompt": "a"}', {"Host": "evil.example"}, 400),
    ],
)
def test_requests_that_are_none(server: str, body: bytes, headers: dict[str, str], status: int) -> None:
    assert _post(f"{server}/v1/completions", body, **headers)[0] == status


def test_fifty_clients_at_once(client: openai.OpenAI, expected: str) -> None:
    def ask(_: int) -> str | None:
        return client.chat.completions.create(
            model="tiny", messages=MESSAGES, max_tokens=8, temperature=0, seed=1
        ).choices[0].message.content

    with ThreadPoolExecutor(50) as clients:
        assert set(clients.map(ask, range(50))) == {expected}


def test_the_page(server: str) -> None:
    with urllib.request.urlopen(server, timeout=10) as reply:
        assert "default-src 'none'" in reply.headers["Content-Security-Policy"]
        assert b"/v1/chat/completions" in reply.read()


def test_the_queue_has_a_bound_and_a_client_that_leaves_frees_its_engine(product: Path) -> None:
    with serving(product, "--queue", "0") as (url, _):
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=60)
        stream = client.chat.completions.create(model="tiny", messages=MESSAGES, stream=True, **LONG)
        next(iter(stream))
        with pytest.raises(openai.RateLimitError, match="too many requests"):
            client.chat.completions.create(model="tiny", messages=MESSAGES, max_tokens=1)
        stream.close()
        began = time.monotonic()
        while time.monotonic() - began < 20:
            try:
                reply = client.chat.completions.create(model="tiny", messages=MESSAGES, max_tokens=1)
                break
            except openai.RateLimitError:
                time.sleep(0.05)
        assert reply.usage is not None
        assert reply.usage.completion_tokens == 1


def test_a_client_that_hangs_up_before_the_answer_frees_its_engine(product: Path) -> None:
    """Without a stream the server has to notice by itself; an answer of 400 tokens would hold the only place."""
    body = json.dumps({"model": "tiny", "messages": MESSAGES, **LONG}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n" \
           f"Content-Length: {len(body)}\r\n\r\n"  # fmt: skip
    slow = ["--set", "thread_num=1", "--queue", "0"]
    with serving(product, *slow) as (url, process):
        child = psutil.Process(process.pid).children()[0]
        with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2]))) as connection:
            connection.sendall(head.encode() + body)
            time.sleep(0.15)
        gone = time.monotonic()
        answer = {"model": "tiny", "messages": MESSAGES, "max_tokens": 1}
        while _post(f"{url}/v1/chat/completions", json.dumps(answer).encode())[0] != 200:
            assert time.monotonic() - gone < 20
            time.sleep(0.02)
        assert child.is_running()


def test_a_stop_lets_the_answer_end(product: Path) -> None:
    """SIGTERM while an answer is streamed: it comes to its end, and the process leaves by itself."""
    with serving(product) as (url, process):
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=60)
        stream = iter(client.chat.completions.create(model="tiny", messages=MESSAGES, stream=True, **LONG))
        next(stream)
        process.terminate()
        chunks = list(stream)
        assert chunks[-1].choices[0].finish_reason == "length"
        assert process.wait(20) in (0, -signal.SIGTERM)
        with pytest.raises(openai.APIConnectionError):
            client.models.list()


def test_no_answer_is_longer_than_the_servers_limit(product: Path) -> None:
    with serving(product, "--max-new-tokens", "5") as (url, _):
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=60)
        reply = client.chat.completions.create(model="tiny", messages=MESSAGES, **LONG)
        assert reply.usage is not None
        assert (reply.usage.completion_tokens, reply.choices[0].finish_reason) == (5, "length")


def test_a_crashed_engine_is_one_error_and_is_replaced(product: Path) -> None:
    with serving(product) as (url, process):
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=60)
        children = psutil.Process(process.pid).children()
        assert len(children) == 1
        os.kill(children[0].pid, signal.SIGSEGV)
        with pytest.raises(openai.InternalServerError, match="killed by SIGSEGV"):
            client.chat.completions.create(model="tiny", messages=MESSAGES, max_tokens=1)
        assert client.chat.completions.create(model="tiny", messages=MESSAGES, max_tokens=1).choices


def test_a_token_is_asked_for_and_a_stop_ends_the_engines(product: Path) -> None:
    with serving(product, token="s3cret") as (url, process):
        with pytest.raises(openai.AuthenticationError):
            openai.OpenAI(base_url=f"{url}/v1", api_key="wrong", max_retries=0).models.list()
        assert list(openai.OpenAI(base_url=f"{url}/v1", api_key="s3cret", max_retries=0).models.list())
        children = psutil.Process(process.pid).children()
        process.terminate()
        process.wait(20)
        assert not [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]


def test_others_are_not_served_without_a_token(
    product: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    assert main(["serve", str(product), "--host", "0.0.0.0"]) == 3
    assert TOKEN_VARIABLE in capsys.readouterr().err

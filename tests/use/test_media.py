"""Sounds in prompts, from the terminal and over the OpenAI protocol, through a tiny Qwen2-Audio on the engine."""

from __future__ import annotations

import base64
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from pipeline.__main__ import main
from pipeline.errors import UserError
from pipeline.mnn.runner import Engine
from pipeline.use.media import encode
from tests.towers.audio_models import AUDIO, build, chirp, write_model, write_wav


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """product/ and two sounds."""
    root = tmp_path_factory.mktemp("media")
    build(write_model(root / "source"), root)
    write_wav(root / "one.wav", chirp(0.6))
    write_wav(root / "other.wav", chirp(0.9)[::-1])
    return root


def answers(place: Path, lines: list[str], capsys: pytest.CaptureFixture[str]) -> list[dict]:
    (place / "prompts.jsonl").write_text("".join(json.dumps({"prompt": line}) + "\n" for line in lines))
    main(["run", str(place / "product"), str(place / "prompts.jsonl"), "--greedy", "--max-new-tokens", "8"])
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_run_hears(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, other = (f"<audio>{place / name}.wav</audio>" for name in ("one", "other"))
    found = answers(place, [f"{one}What?", f"{other}What?", f"{one}What?", "What?", f"{one}{other}What?"], capsys)
    assert all("error" not in record for record in found), found
    assert found[0]["answer"] == found[2]["answer"]
    lengths = [record["prompt_tokens"] for record in found]
    heard = [length - lengths[3] for length in lengths]
    assert heard == [15, 22, 15, 0, 37]  # 60 and 90 frames of 10 ms, four to a token


def test_one_clear_line_for_each_mistake(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "broken.wav").write_bytes(b"RIFFnothing")
    found = answers(place, ["<audio>/no/such.wav</audio>hm", f"<audio>{place / 'broken.wav'}</audio>hm", "hm"], capsys)
    assert "/no/such.wav cannot be read" in found[0]["error"]
    assert "no WAV file" in found[1]["error"]
    assert "error" not in found[2]


def test_a_product_without_ears_leaves_tags_alone(product: Path) -> None:
    with Engine(product) as engine:
        text = "say <audio>/etc/passwd</audio>"
        assert encode(engine, text).ids == engine.tokenize(text)
        with pytest.raises(UserError, match="no audio encoder"):
            encode(engine, text, [chirp(0.1)])


@pytest.fixture(scope="module")
def client(place: Path) -> Iterator[openai.OpenAI]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "pipeline", "serve", str(place / "product"), "--port", str(port), "--name", "ear"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    for _ in range(300):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.1)
    yield openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0)
    process.terminate()
    process.wait(20)


def ask(client: openai.OpenAI, *parts: dict) -> openai.types.chat.ChatCompletion:
    return client.chat.completions.create(
        model="ear", messages=[{"role": "user", "content": list(parts)}], max_tokens=8, temperature=0
    )


def sound(content: bytes, form: str = "wav") -> dict:
    return {"type": "input_audio", "input_audio": {"data": base64.b64encode(content).decode(), "format": form}}


def test_the_openai_client_sends_sounds(
    client: openai.OpenAI, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = {"type": "text", "text": "What?"}
    found = ask(client, sound((place / "one.wav").read_bytes()), text)
    same = answers(place, [f"<audio>{place / 'one.wav'}</audio>What?"], capsys)[0]
    assert found.choices[0].message.content == same["answer"]
    assert found.usage is not None
    assert found.usage.prompt_tokens == same["prompt_tokens"]


@pytest.mark.parametrize(
    ("part", "reason"),
    [
        (sound(b"nothing"), "no WAV file"),
        (sound(b"", "mp3"), "format"),
        ({"type": "input_audio", "input_audio": {"data": "%%", "format": "wav"}}, "base64"),
        ({"type": "text", "text": "<audio>/etc/passwd</audio>"}, "may not hold"),
        ({"type": "text", "text": "<audio>0</audio>"}, "may not hold"),
        ({"type": "video_url", "video_url": {"url": "x"}}, "type"),
    ],
)
def test_what_a_client_may_not_send(client: openai.OpenAI, part: dict, reason: str) -> None:
    with pytest.raises(openai.BadRequestError, match=reason):
        ask(client, part)


def test_the_token_is_the_models(place: Path) -> None:
    assert json.loads((place / "product" / "llm_config.json").read_text())["audio_pad"] == AUDIO

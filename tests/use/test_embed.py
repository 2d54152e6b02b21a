"""`embed`: vectors at the terminal, and over the OpenAI protocol with the openai package's own client."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import openai
import pytest

from pipeline.__main__ import main
from pipeline.mnn.runner import Embedder
from tests.sentence_models import build_product, write_json, write_sentence_model

PROMPT = "find "


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("embed")
    source = write_sentence_model("bge", root / "source")
    write_json(source / "config_sentence_transformers.json", {"prompts": {"query": PROMPT}})
    return build_product(source, root / "work")


@pytest.fixture(scope="module")
def engine(product: Path) -> Iterator[Embedder]:
    with Embedder(product) as engine:
        yield engine


def rows(out: str) -> list[dict]:
    return [json.loads(line) for line in out.splitlines()]


def test_texts_as_json_lines(product: Path, engine: Embedder, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["embed", str(product), "a cat", "on a mat"]) == 0
    found = rows(capsys.readouterr().out)
    assert [row["text"] for row in found] == ["a cat", "on a mat"]
    assert np.array_equal(np.float32(found[1]["embedding"]), engine.embed("on a mat"))
    assert np.linalg.norm(found[0]["embedding"]) == pytest.approx(1, abs=1e-5)


def test_a_file_to_an_array_and_to_json_lines(product: Path, engine: Embedder, tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("a cat\n\na mat\n")
    (tmp_path / "in.jsonl").write_text('{"text": "a cat"}\n{"text": "a mat"}\n')
    for name in ("in.txt", "in.jsonl"):
        assert main(["embed", str(product), str(tmp_path / name), "--out", str(tmp_path / "out.npy")]) == 0
        array = np.load(tmp_path / "out.npy")
        assert (array.shape, array.dtype) == ((2, 64), np.float32)
        assert np.array_equal(array[1], engine.embed("a mat"))
    assert main(["embed", str(product), "a mat", "--out", str(tmp_path / "out.jsonl")]) == 0
    assert np.array_equal(np.float32(rows((tmp_path / "out.jsonl").read_text())[0]["embedding"]), array[1])


def test_prompts(product: Path, engine: Embedder, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["embed", str(product), "a cat", "--prompt", "query"]) == 0
    found = np.float32(rows(capsys.readouterr().out)[0]["embedding"])
    assert np.array_equal(found, engine.embed(PROMPT + "a cat"))
    assert not np.array_equal(found, engine.embed("a cat"))


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["x", "--prompt", "qery"], "Did you mean 'query'"),
        (["x", "--out", "/no/such/folder/x.npy"], "cannot be written"),
        (["x", "--out", "x.txt"], ".npy or .jsonl"),
        (["x\0y"], "U+0000"),
        (["x", "--set", "thread_nun=1"], "thread_num"),
    ],
)
def test_mistakes_are_one_line(
    product: Path, arguments: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["embed", str(product), *arguments]) == 3
    error = capsys.readouterr().err
    assert reason in error
    assert len(error.splitlines()) == 1


def test_the_wrong_verb_is_told(product: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("hello\n")
    assert main(["run", str(product), str(tmp_path / "prompts.txt")]) == 3
    assert "pipeline embed" in capsys.readouterr().err


def test_a_text_is_cut_where_hugging_face_cuts(product: Path, engine: Embedder) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(product.parents[1] / "source")
    for text in ("cat " * 60, "c" * 90, "mat, the cat! " * 9):
        kept, ids = engine.fit(text)
        assert ids == tokenizer(text, truncation=True, max_length=24)["input_ids"]
        assert text.startswith(kept)
        assert np.isfinite(engine.embed(text)).all()


@pytest.fixture(scope="module")
def server(product: Path) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "pipeline", "serve", str(product), "--port", str(port), "--name", "tiny"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    for _ in range(300):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.1)
    yield f"http://127.0.0.1:{port}/v1"
    process.terminate()
    process.wait(20)


def test_the_openai_client(server: str, engine: Embedder) -> None:
    client = openai.OpenAI(base_url=server, api_key="none")
    found = client.embeddings.create(model="tiny", input=["a cat", "a mat"])  # the client asks for base64
    assert [one.index for one in found.data] == [0, 1]
    assert np.array_equal(np.float32(found.data[1].embedding), engine.embed("a mat"))
    assert found.usage.prompt_tokens == sum(len(engine.fit(text)[1]) for text in ("a cat", "a mat"))
    plain = client.embeddings.create(
        model="tiny", input="a cat", encoding_format="float", dimensions=64, extra_body={"prompt_name": "query"}
    )
    assert np.array_equal(np.float32(plain.data[0].embedding), engine.embed(PROMPT + "a cat"))
    assert client.models.list().data[0].id == "tiny"


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"input": [1, 2]}, "input"),
        ({"input": ""}, "input"),
        ({"input": "x", "dimensions": 32}, "64"),
        ({"input": "x", "model": "other"}, "model"),
        ({"input": "x", "extra_body": {"prompt_name": "qery"}}, "query"),
        ({"input": "x", "extra_body": {"colour": 1}}, "colour"),
    ],
)
def test_wrong_requests_are_400(server: str, fields: dict, reason: str) -> None:
    client = openai.OpenAI(base_url=server, api_key="none")
    with pytest.raises(openai.BadRequestError, match=reason):
        client.embeddings.create(**{"model": "tiny", **fields})

"""`rerank` with a cross-encoder at the terminal, and /v1/rerank, against Hugging Face's own scores."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from pipeline.__main__ import main
from tests.pair_models import DOCUMENTS, QUERY, build_product, write_cross_encoder
from tests.use.test_serve import _post, serving

TEXTS = list(DOCUMENTS[:4])


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("rerank")
    return build_product(write_cross_encoder("bge", root / "source"), root / "work")


@pytest.fixture(scope="module")
def logits(product: Path) -> list[float]:
    source = product.parents[1] / "source"
    inputs = AutoTokenizer.from_pretrained(source)([(QUERY, text) for text in TEXTS], padding=True, return_tensors="pt")
    with torch.inference_mode():
        model = AutoModelForSequenceClassification.from_pretrained(source, dtype=torch.float32).eval()
        return [float(value) for value in model(**inputs).logits[:, 0]]


def rows(out: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.splitlines()]


def best_first(values: list[float]) -> list[int]:
    return sorted(range(len(values)), key=lambda index: -values[index])


def test_scores_are_hugging_faces_best_first(
    product: Path, logits: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["rerank", str(product), QUERY, *TEXTS]) == 0
    found = rows(capsys.readouterr().out)
    assert [row["index"] for row in found] == best_first(logits)
    for row in found:
        assert row["text"] == TEXTS[row["index"]]
        assert row["score"] == pytest.approx(1 / (1 + math.exp(-logits[row["index"]])), abs=1e-4)
    assert main(["rerank", str(product), QUERY, *TEXTS, "--raw", "--in-order"]) == 0
    assert [row["score"] for row in rows(capsys.readouterr().out)] == pytest.approx(logits, abs=1e-4)


def test_a_model_whose_score_is_its_logit(
    product: Path, logits: list[float], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in product.iterdir():
        (tmp_path / path.name).symlink_to(path)
    manifest = json.loads((product / "manifest.json").read_text())
    manifest["model"]["pair"]["activation"] = "identity"
    (tmp_path / "manifest.json").unlink()
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    assert main(["rerank", str(tmp_path), QUERY, TEXTS[0]]) == 0
    assert rows(capsys.readouterr().out)[0]["score"] == pytest.approx(logits[0], abs=1e-4)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["rerank", "PRODUCT", "", "x"], "query is empty"),
        (["rerank", "PRODUCT", "q", "x\0y"], "U+0000"),
        (["rerank", "PRODUCT", "q", "x", "--instruction", "be nice"], "--instruction"),
        (["rerank", "PRODUCT", "q", "x", "--adapter", "lora.mnn"], "--adapter"),
        (["rerank", "PRODUCT", "q", "x", "--set", "thread_nun=1"], "thread_num"),
        (["embed", "PRODUCT", "x"], "it scores pairs"),
        (["chat", "PRODUCT"], "pipeline rerank"),
    ],
)
def test_mistakes_are_one_line(
    product: Path, arguments: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(product) if word == "PRODUCT" else word for word in arguments]) == 3
    error = capsys.readouterr().err
    assert reason in error
    assert len(error.splitlines()) == 1


@pytest.fixture(scope="module")
def server(product: Path) -> Iterator[str]:
    with serving(product, "--name", "tiny", token="secret") as (url, _):
        yield url


def ask(server: str, token: str = "secret", **fields: Any) -> tuple[int, dict[str, Any]]:
    body = json.dumps({"query": QUERY, "documents": TEXTS, **fields}).encode()
    return _post(f"{server}/v1/rerank", body, Authorization=f"Bearer {token}")


def test_the_server_ranks(server: str, logits: list[float]) -> None:
    status, found = ask(server, model="tiny")
    assert status == 200
    assert [one["index"] for one in found["results"]] == best_first(logits)
    best = found["results"][0]
    assert best["relevance_score"] == pytest.approx(1 / (1 + math.exp(-max(logits))), abs=1e-4)
    assert "document" not in best
    objects = [{"text": text} for text in TEXTS]
    status, few = ask(server, documents=objects, top_n=2, return_documents=True, raw_scores=True)
    assert [one["index"] for one in few["results"]] == best_first(logits)[:2]
    assert few["results"][0]["document"] == {"text": TEXTS[best["index"]]}
    assert few["results"][0]["relevance_score"] == pytest.approx(max(logits), abs=1e-4)
    assert few["usage"]["total_tokens"] == found["usage"]["total_tokens"] > 4 * len(TEXTS)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"query": ""}, "query"),
        ({"query": "a\0b"}, "query"),
        ({"documents": []}, "documents"),
        ({"documents": [1]}, "documents"),
        ({"documents": "x"}, "documents"),
        ({"top_n": 0}, "top_n"),
        ({"top_n": True}, "top_n"),
        ({"return_documents": 1}, "return_documents"),
        ({"model": "other"}, "tiny"),
        ({"colour": 1}, "colour"),
    ],
)
def test_wrong_requests_are_400(server: str, fields: dict[str, Any], reason: str) -> None:
    status, body = ask(server, **fields)
    assert status == 400
    assert reason in body["error"]["message"]


def test_a_token_is_asked_for(server: str) -> None:
    assert ask(server, token="wrong")[0] == 401

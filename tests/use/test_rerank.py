"""`rerank` against Hugging Face's own logits of "yes" and "no"."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import Qwen3ForCausalLM

from pipeline.__main__ import main
from pipeline.errors import UserError
from pipeline.mnn.runner import Engine
from pipeline.use import rerank

EXACT = {"precision": "high", "memory": "normal", "thread_num": 1}
DOCUMENTS = ("Paris is the capital of France.", "Bread is baked in an oven.", "yes")


def expected(model: Qwen3ForCausalLM, ids: list[int], yes: int, no: int) -> float:
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([ids])).logits[0, -1]
    return float(torch.softmax(logits[[yes, no]], 0)[0])


def test_scores_are_hugging_faces(model: Qwen3ForCausalLM, product: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Engine(product, EXACT) as engine:
        words = {"yes": 40, "no": 41}  # the tiny tokenizer knows bytes only, so the two answers are tokens of its own
        monkeypatch.setattr(rerank, "answer_id", lambda _, word: words[word])
        found = list(rerank.scores(engine, "What is the capital of France?", DOCUMENTS))
        for score, document in zip(found, DOCUMENTS, strict=True):
            ids = engine.tokenize(rerank.prompt("What is the capital of France?", document))
            assert score == pytest.approx(expected(model, ids, 40, 41), abs=1e-4)
    assert len(set(found)) == 3


def test_a_product_whose_yes_is_no_token(product: Path) -> None:
    with Engine(product, EXACT) as engine, pytest.raises(UserError, match="no reranker"):
        list(rerank.scores(engine, "q", ["d"]))


def test_best_first(product: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(rerank, "answer_id", lambda _, word: {"yes": 40, "no": 41}[word])
    assert main(["rerank", str(product), "q", *DOCUMENTS]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["score"] for row in rows] == sorted((row["score"] for row in rows), reverse=True)
    assert {row["index"] for row in rows} == {0, 1, 2}

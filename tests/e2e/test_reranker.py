"""A tiny bge-reranker as a person exports and asks it: `doit export model=local model.path=…`, no word of its task."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from pipeline.verify.pair_text import QUERIES, paragraphs
from tests.e2e.workshop import Workshop
from tests.pair_models import write_bge


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    root = tmp_path_factory.mktemp("reranker")
    write_bge(root / "bge")
    workshop = Workshop(root)
    result = workshop.export("model=local", f"model.path={root / 'bge'}", "quant=fp16,int8", "model.name=bge")
    assert result.code == 0, result.out + result.err
    return workshop


def named(workshop: Workshop, quant: str) -> str:
    return next(name for name in workshop.products() if quant in name)


def test_the_gate_ran_and_says_so(workshop: Workshop) -> None:
    for quant, error in (("fp16", 1e-4), ("int8", 0.1)):
        manifest = workshop.manifest(named(workshop, quant))
        assert manifest["verification"]["verified"] is True
        figures = manifest["verification"]["report"]["figures"]["rerank"]
        assert figures["max_error"] < error
        assert figures["order"] >= 0.96
        assert manifest["model"]["task"] == "rerank"
        assert manifest["model"]["max_position_embeddings"] == 128
        assert manifest["model"]["pair"]["between"] == [2, 2]


def test_scores_at_the_terminal_are_hugging_faces(workshop: Workshop) -> None:
    """Independent of the gate: a padded batch, scored as sentence-transformers' CrossEncoder scores it."""
    folder, (query, documents) = workshop.root / "bge", QUERIES[3]
    texts = [*documents, paragraphs(128)]
    inputs = AutoTokenizer.from_pretrained(folder)(
        [(query, text) for text in texts], padding=True, truncation=True, return_tensors="pt"
    )
    with torch.inference_mode():
        model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
        expected = torch.sigmoid(model(**inputs).logits[:, 0]).tolist()
    assert inputs["input_ids"].shape[1] == 128
    command = ["rerank", str(workshop.product(named(workshop, "fp16"))), query, *texts, "--in-order"]
    done = subprocess.run([sys.executable, "-m", "pipeline", *command], capture_output=True, text=True, check=True)
    found = [json.loads(line)["score"] for line in done.stdout.splitlines()]
    assert found == pytest.approx(expected, abs=1e-4)


def test_the_export_says_what_to_type_next(workshop: Workshop) -> None:
    again = workshop.export("model=local", f"model.path={workshop.root / 'bge'}", "quant=fp16", "model.name=bge")
    assert "python -m pipeline rerank" in again.out
    assert "order kept" in again.out


def test_two_labels_are_one_line(workshop: Workshop, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    for path in (workshop.root / "bge").iterdir():
        (tmp_path / "model" / path.name).write_bytes(path.read_bytes())
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    (tmp_path / "model" / "config.json").write_text(json.dumps({**config, "id2label": {"0": "no", "1": "yes"}}))
    result = workshop.export("model=local", f"model.path={tmp_path / 'model'}")
    assert result.code == 3
    assert "2 classes" in result.error

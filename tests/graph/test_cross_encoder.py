"""Cross-encoders of every family through the stages, on the engine, against Hugging Face's own code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from pipeline.errors import UserError
from pipeline.graph.cross_encoder import export_cross_encoder, token_types
from pipeline.graph.tracer import Options
from pipeline.mnn.runner import Reranker
from pipeline.stages import checkpoint, pair
from tests.graph.product import Silent
from tests.pair_models import DOCUMENTS, MODELS, QUERY, TYPED, build_product, write_cross_encoder

torch.set_num_threads(1)
EXACT = {"precision": "high", "memory": "normal", "thread_num": 1}


def expected(folder: Path, query: str, documents: tuple[str, ...]) -> list[float]:
    """As sentence-transformers asks: pairs through the tokenizer, cut longest first, the logit of the one label."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    found = []
    for document in documents:
        with torch.inference_mode():
            found.append(float(model(**tokenizer([(query, document)], truncation=True, return_tensors="pt")).logits))
    return found


@pytest.mark.parametrize("name", MODELS)
def test_logits_equal_hugging_face(name: str, tmp_path: Path) -> None:
    source = write_cross_encoder(name, tmp_path / "source")
    wanted = expected(source, QUERY, DOCUMENTS)
    with Reranker(build_product(source, tmp_path / "work"), EXACT) as engine:
        found = [logit for logit, _ in engine.pair_logits(QUERY, DOCUMENTS)]
        swapped = [logit for logit, _ in engine.pair_logits("one [SEP] two", [QUERY])]
    assert found == pytest.approx(wanted, abs=1e-5)
    assert swapped == pytest.approx(expected(source, "one [SEP] two", (QUERY,)), abs=1e-5)
    assert max(wanted) - min(wanted) > 0.1  # else equality would say little
    layout = json.loads((tmp_path / "work" / "graph" / "layout.json").read_text())
    assert (layout["pair"]["flag"] is not None) == (name in TYPED)

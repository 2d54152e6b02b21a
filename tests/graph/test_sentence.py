"""Embedding models of every family through the stages, on the engine, against Hugging Face's own code."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoTokenizer

from pipeline.checkpoint.sentence import SentenceConfig, read_sentence_config
from pipeline.errors import UserError
from pipeline.graph.sentence import export_sentence
from pipeline.graph.tracer import Options
from pipeline.mnn.runner import Embedder
from pipeline.stages import checkpoint
from pipeline.verify.sentences import cosine
from tests.graph.product import Silent
from tests.sentence_models import MODELS, TEXTS, build_product, write_sentence_model

torch.set_num_threads(1)
EXACT = {"precision": "high", "memory": "normal", "thread_num": 1}
MODERNBERT = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3}
LIMIT = 24  # max_seq_length of the tiny models


def expected(folder: Path, text: str, pooling: str) -> np.ndarray:
    """What sentence-transformers does with one text: cut, pool the tokens, divide by the length."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    inputs = tokenizer([text], truncation=True, max_length=LIMIT, return_tensors="pt", return_token_type_ids=False)
    with torch.inference_mode():
        states = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()(**inputs)[0][0]
    vector = {"mean_tokens": states.mean(0), "cls_token": states[0], "lasttoken": states[-1],
              "max_tokens": states.amax(0)}[pooling]  # fmt: skip
    found: np.ndarray = (vector / vector.norm()).numpy()
    return found


@pytest.mark.parametrize("name", MODELS)
def test_vectors_equal_hugging_face(name: str, tmp_path: Path) -> None:
    source = write_sentence_model(name, tmp_path / "source")
    with Embedder(build_product(source, tmp_path / "work"), EXACT) as engine:
        for text in TEXTS:
            reference, found = expected(source, text, MODELS[name][2]), engine.embed(text)
            assert np.abs(found - reference).max() < 1e-5 * max(1, 8 * np.abs(reference).max()), text
            assert cosine(found, reference) > 0.99999


def test_not_normalised(tmp_path: Path) -> None:
    source = write_sentence_model("bert", tmp_path / "source")
    (source / "modules.json").unlink()
    sentence = SentenceConfig("cls", normalize=False)
    exported = export(source, tmp_path, sentence)
    assert exported["sentence"]["normalize"] is False
    assert exported["sentence"]["pooling"] == "cls"


def export(source: Path, tmp_path: Path, sentence: SentenceConfig) -> dict:
    folder, out = tmp_path / "checkpoint", tmp_path / "graph"
    folder.mkdir()
    out.mkdir()
    config = {"adapter": {"mode": "none", "weight": 1.0}, "model": {}}
    checkpoint.run(config, {"source": source}, folder, Silent())
    return export_sentence(folder, out, Options(), sentence).layout


@pytest.mark.parametrize(
    ("model_type", "config", "reason"),
    [
        ("mpnet", {}, "from the sequence length"),
        ("t5", {"d_model": 64, "d_kv": 16, "d_ff": 64, "num_layers": 1, "num_heads": 4}, "no single stack"),
        ("modernbert", MODERNBERT, "sliding window"),
        ("deberta-v2", {}, "from the sequence length"),
    ],
)
def test_what_cannot_be_expressed_is_refused_with_the_reason(
    model_type: str, config: dict, reason: str, tmp_path: Path
) -> None:
    """Built from a config of the family, traced, refused: never a traceback, never a wrong graph."""
    sizes = {"vocab_size": 300, "num_hidden_layers": 2, **config}
    if model_type not in ("t5",):
        sizes |= {"hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 64}
    model = AutoModel.from_config(AutoConfig.for_model(model_type, **sizes))
    model.save_pretrained(tmp_path / "source")
    with pytest.raises(UserError, match=reason):
        export(tmp_path / "source", tmp_path, SentenceConfig("mean", True))


def test_the_layout_says_how_long_a_text_may_be(tmp_path: Path) -> None:
    source = write_sentence_model("roberta", tmp_path / "source")
    (source / "sentence_bert_config.json").unlink()
    layout = export(source, tmp_path, read_sentence_config(source))
    assert layout["max_position_embeddings"] == 66 - 2  # RoBERTa's positions begin behind the padding token's id, 1
    assert layout["sentence"] == {
        "causal": False, "dimensions": 64, "pooling": "mean", "normalize": True, "prompts": {}, "default_prompt": "",
        "lowercase": False,
    }  # fmt: skip


def test_a_reranker_with_a_head_of_its_own_is_refused(tmp_path: Path) -> None:
    source = write_sentence_model("bge-m3", tmp_path / "source")
    config = json.loads((source / "config.json").read_text())
    config["architectures"] = ["XLMRobertaForSequenceClassification"]
    (source / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="pairs of texts"):
        export(source, tmp_path, SentenceConfig("cls", True))

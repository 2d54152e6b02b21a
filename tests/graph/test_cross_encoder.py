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


def test_the_graph_finds_the_document_by_its_flag_alone(tmp_path: Path) -> None:
    """The plain separator in its place makes all token types 0: another score, Hugging Face's for types of 0."""
    source = write_cross_encoder("minilm", tmp_path / "source")
    tokenizer = AutoTokenizer.from_pretrained(source)
    model = AutoModelForSequenceClassification.from_pretrained(source, dtype=torch.float32).eval()
    inputs = tokenizer([(QUERY, DOCUMENTS[0])], return_tensors="pt")
    with torch.inference_mode():
        untyped = float(model(**{**inputs, "token_type_ids": torch.zeros_like(inputs["input_ids"])}).logits)
    with Reranker(build_product(source, tmp_path / "work"), EXACT) as engine:
        [(typed, _)] = engine.pair_logits(QUERY, [DOCUMENTS[0]])
        engine._fed = engine.pair
        [(found, _)] = engine.pair_logits(QUERY, [DOCUMENTS[0]])
    assert found == pytest.approx(untyped, abs=1e-5)
    assert abs(typed - untyped) > 1e-3


def test_token_types() -> None:
    places = torch.arange(6)[None]
    for flag, expected in ((None, [0] * 6), (0, [0, 1, 1, 1, 1, 1]), (3, [0, 0, 0, 0, 1, 1]), (5, [0] * 6)):
        flags = torch.zeros(1, 6) if flag is None else torch.nn.functional.one_hot(torch.tensor([flag]), 6).float()
        assert token_types(flags, places).tolist() == [expected]


def export(source: Path, tmp_path: Path) -> dict:
    """layout.json's content."""
    folder, out = tmp_path / "checkpoint", tmp_path / "out"
    folder.mkdir()
    out.mkdir()
    config = {"adapter": {"mode": "none", "weight": 1.0}, "model": {}}
    checkpoint.run(config, {"source": source}, folder, Silent())
    pair.run({}, {"checkpoint": folder}, out, Silent())
    return export_cross_encoder(folder, out, Options(), json.loads((out / "pair.json").read_text())).layout


def test_what_the_layout_says(tmp_path: Path) -> None:
    source = write_cross_encoder("bge", tmp_path / "source")
    change(source / "tokenizer_config.json", model_max_length=10**30)
    layout = export(source, tmp_path)
    assert layout["task"] == "rerank"
    assert layout["max_position_embeddings"] == 66 - 2  # positions begin behind the padding token's id, 1
    assert layout["pair"] == {"before": [2], "between": [3, 3], "after": [3], "typed": False, "flag": None,
                              "activation": "sigmoid", "causal": False}  # fmt: skip
    kept = {linear["name"] for linear in layout["linears"] if linear["keep"]}
    assert kept == {"classifier.dense", "classifier.out_proj"}


def test_a_separators_row_is_added_with_its_column(tmp_path: Path) -> None:
    layout = export(write_cross_encoder("minilm", tmp_path / "source"), tmp_path)
    whole, row = layout["embedding"]["parts"]
    assert (layout["hidden_size"], layout["vocab_size"], layout["pair"]["flag"]) == (65, 301, 300)
    assert (layout["embedding"]["rows"], layout["embedding"]["columns"], layout["embedding"]["markers"]) == (301, 64, 1)
    assert (whole["rows"], row["rows"], row["marker"]) == (None, [3, 4], 1.0)


def change(path: Path, **keys: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **keys}))


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ({"id2label": {"0": "no", "1": "yes"}}, "2 classes"),
        ({"architectures": ["XLMRobertaModel"]}, "no head that scores pairs"),
        ({"sbert_ce_default_activation_function": "torch.nn.Softmax"}, r"torch\.nn\.Softmax"),
    ],
)
def test_what_is_no_reranker_is_refused_with_the_reason(keys: dict, reason: str, tmp_path: Path) -> None:
    source = write_cross_encoder("bge", tmp_path / "source")
    change(source / "config.json", **keys)
    with pytest.raises(UserError, match=reason):
        export(source, tmp_path)


@pytest.mark.parametrize(
    ("model_type", "config", "reason"),
    [
        ("qwen3", {"num_key_value_heads": 2, "head_dim": 16, "pad_token_id": None}, "from left to right"),
        ("deberta-v2", {}, "from the sequence length"),
        ("modernbert", {"pad_token_id": 0, "cls_token_id": 2, "sep_token_id": 3}, "sliding window"),
    ],
)
def test_families_that_the_engine_has_no_graph_for(
    model_type: str, config: dict, reason: str, tmp_path: Path
) -> None:
    source = write_cross_encoder("bge", tmp_path / "source")
    sizes = {"vocab_size": 300, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
             "intermediate_size": 64, "num_labels": 1, **config}  # fmt: skip
    model = AutoModelForSequenceClassification.from_config(AutoConfig.for_model(model_type, **sizes))
    model.save_pretrained(source)
    with pytest.raises(UserError, match=reason):
        export(source, tmp_path)

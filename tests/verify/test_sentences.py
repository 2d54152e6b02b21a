"""The gate of embedding products passes what is right, on the real engine, and sees what is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import StageFailed
from pipeline.verify import gate, sentences
from pipeline.verify.applies import proves_sentences, proves_text
from tests.sentence_models import build_product, write_sentence_model

LIMITS = {"min_cosine": 0.9999, "min_rank_correlation": 0.999}
TEXTS = ("one cat", "two dogs on a mat", "the mat", "a b c d e")


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sentences")
    return build_product(write_sentence_model("bert", root / "source"), root / "work")


@pytest.fixture(scope="module")
def reference(product: Path) -> dict:
    """Hugging Face's own ids and vectors, by the functions of the stage."""
    from pipeline.checkpoint.sentence import read_sentence_config
    from pipeline.verify import sentence_reference
    from pipeline.verify.file_tokenizer import open_tokenizer

    source = product.parents[1] / "source"
    ids = sentence_reference.token_ids(open_tokenizer(source, 24), TEXTS)
    encoder = sentence_reference.load_encoder(source, {})
    vectors = sentence_reference.vectors(encoder, ids, read_sentence_config(source))
    return {"texts": list(TEXTS), "ids": ids, "ranked": len(TEXTS), "vectors": vectors, "skipped": "no room"}


def judge(product: Path, reference: dict, vectors: np.ndarray | None) -> gate.Report:
    weights = json.loads((product.parent / "weights" / "weights.json").read_text())
    return sentences.judge(product, reference, vectors, weights, LIMITS, "fast", 1)


def test_a_right_product_passes(product: Path, reference: dict) -> None:
    report = judge(product, reference, reference["vectors"])
    assert report.passed, report.failed
    assert report.figures["embedding"]["min_cosine"] > 0.99999
    assert report.figures["embedding"]["dimensions"] == 64


def test_other_vectors_and_other_ids_fail(product: Path, reference: dict) -> None:
    report = judge(product, reference, np.roll(reference["vectors"], 1, axis=0))
    assert {check.name for check in report.failed} == {"lowest cosine to Hugging Face", "rank correlation of pairs"}
    with pytest.raises(StageFailed, match="lowest cosine"):
        gate.enforce(report, product)
    other = {**reference, "ids": [ids[:-1] for ids in reference["ids"]]}
    failed = judge(product, other, reference["vectors"]).failed
    assert [check.name for check in failed] == ["texts tokenised otherwise"]


def test_without_room_for_the_reference_it_is_said(product: Path, reference: dict) -> None:
    report = judge(product, reference, None)
    assert [check.reason for check in report.checks if check.passed is None] == ["no room"] * 2


def test_rank_correlation_against_scipys_definition() -> None:
    first = np.array([0.1, 0.4, 0.2, 0.9])
    assert sentences.rank_correlation(first, first**3) == pytest.approx(1)
    assert sentences.rank_correlation(first, -first) == pytest.approx(-1)
    swapped = np.array([0.1, 0.4, 0.5, 0.9])  # one neighbouring pair exchanged: 1 − 6·2 / (4·15)
    assert sentences.rank_correlation(first, swapped) == pytest.approx(0.8)


def test_a_vector_of_nothing_never_passes() -> None:
    checks, _ = sentences.check_vectors(np.ones((3, 4), np.float32), np.zeros((3, 4), np.float32), 3, LIMITS)
    assert checks[0].passed is False


def test_each_recipe_gets_one_proof() -> None:
    for mode, task, expected in (
        ("fast", "text", (True, False)), ("fast", "embedding", (False, True)), ("off", "embedding", (False, False)),
    ):  # fmt: skip
        recipe = {"verify": {"mode": mode}, "model": {"task": task}}
        assert (proves_text(recipe), proves_sentences(recipe)) == expected

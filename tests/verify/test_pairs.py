"""The gate of rerankers passes what is right, on the real engine, and sees what is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import StageFailed
from pipeline.verify import gate, huggingface, pair_reference, pair_text, pairs
from pipeline.verify.applies import proves_pairs, proves_sentences, proves_text
from pipeline.verify.file_tokenizer import open_tokenizer
from tests.pair_models import DOCUMENTS, LIMIT, QUERY, build_product, write_cross_encoder

LIMITS = {"max_score_error": 1e-4, "min_order": 1.0}
PAIRS = [(QUERY, document) for document in DOCUMENTS]
LONG = [("a mat " * 40, QUERY), ("a mat " * 40, "the cat " * 30)]


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pairs")
    return build_product(write_cross_encoder("minilm", root / "source"), root / "work")


@pytest.fixture(scope="module")
def reference(product: Path) -> dict:
    """Hugging Face's own ids, types and logits, by the functions of the stage."""
    source = product.parents[1] / "source"
    names = huggingface.load_tokenizer(source).model_input_names
    inputs = pair_reference.inputs(open_tokenizer(source, LIMIT), names, [*PAIRS, *LONG])
    logits = pair_reference.logits(pair_reference.load_classifier(source, {}), inputs[: len(PAIRS)])
    return {"pairs": [*PAIRS, *LONG], "inputs": inputs, "groups": [len(PAIRS)], "logits": logits, "skipped": "no room"}


def judge(product: Path, reference: dict, logits: np.ndarray | None) -> gate.Report:
    weights = json.loads((product.parent / "weights" / "weights.json").read_text())
    return pairs.judge(product, reference, logits, weights, LIMITS, "fast", 1)


def test_a_right_product_passes(product: Path, reference: dict) -> None:
    assert all(len(one["input_ids"]) == LIMIT for one in reference["inputs"][len(PAIRS) :])
    report = judge(product, reference, reference["logits"])
    assert report.passed, report.failed
    assert report.figures["rerank"]["max_error"] < 1e-5
    assert report.figures["rerank"]["order_of"] > 5


def test_other_logits_ids_and_types_fail(product: Path, reference: dict) -> None:
    report = judge(product, reference, reference["logits"][::-1])
    assert {check.name for check in report.failed} == {pairs.SCORES, pairs.RANKING}
    with pytest.raises(StageFailed, match="largest error of a logit"):
        gate.enforce(report, product)
    untyped = [{"input_ids": one["input_ids"][1:]} for one in reference["inputs"]]
    failed = judge(product, {**reference, "inputs": untyped}, reference["logits"]).failed
    assert [check.name for check in failed] == [
        "pairs tokenised otherwise", "the document has token types of its own",
    ]  # fmt: skip


def test_without_room_for_the_reference_it_is_said(product: Path, reference: dict) -> None:
    report = judge(product, reference, None)
    assert [check.reason for check in report.checks if check.passed is None] == ["no room"] * 2


def test_order_counts_documents_that_are_clearly_apart() -> None:
    expected = np.array([3.0, 2.0, 1.99, 0.0, 5.0, 6.0])
    swapped = np.array([3.0, 1.0, 1.5, 0.0, 6.0, 5.0])
    assert pairs.kept_order(expected, expected, [4, 2], 0.1) == (1.0, 6)
    assert pairs.kept_order(expected, swapped, [4, 2], 0.1) == (5 / 6, 6)  # 2.0 and 1.99 are no further apart
    assert pairs.kept_order(expected, swapped, [4, 2], 0.0) == (5 / 7, 7)
    assert np.isnan(pairs.kept_order(expected, expected, [4, 2], 10.0)[0])


def test_scores_of_nothing_never_pass() -> None:
    for found in (np.full(4, np.nan), np.array([1.0, np.inf, 3.0, 4.0])):
        checks, _ = pairs.check_logits(np.arange(4, dtype=np.float32), found, [4], LIMITS)
        assert checks[0].passed is False


def test_every_query_has_documents_and_each_is_ranked() -> None:
    assert sum(pair_text.groups()) == len(pair_text.ranked())
    assert pair_text.scored(64)[: len(pair_text.ranked())] == pair_text.ranked()
    assert min(pair_text.groups()) >= 3
    assert len(set(pair_text.scored(64))) == len(pair_text.scored(64))


def test_long_texts_are_longer_than_the_limit_but_not_much() -> None:
    for limit in (64, 512, 8192):
        words = [len(text.split()) for text in (pair_text.long(limit)[0][1], pair_text.long(limit)[1][0])]
        assert limit < min(words) and max(words) < 3 * limit  # at least a token each


def test_a_reranker_gets_its_own_proof_alone() -> None:
    for mode, expected in (("fast", True), ("off", False)):
        recipe = {"verify": {"mode": mode}, "model": {"task": "rerank"}}
        assert proves_pairs(recipe) is expected
        assert not proves_text(recipe) and not proves_sentences(recipe)

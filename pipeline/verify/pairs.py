"""The checks of a built cross-encoder on the real engine: files, token ids, scores, the ranking of pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.mnn.runner import Reranker
from pipeline.verify.gate import Check, Report, at_least, at_most, equal, not_run
from pipeline.verify.product import check_rounding, check_weights_file
from pipeline.verify.sentences import rank_correlation

Logits = NDArray[np.float32]
SCORES = "largest error of a logit, as a share of the logits' range"
RANKING = "share of documents in Hugging Face's order"
MARGIN = 0.05  # of the logits' range: documents that are no further apart are no better or worse than each other


def judge(
    folder: Path,
    reference: Mapping[str, Any],
    expected: Logits | None,
    weights: Mapping[str, Any],
    limits: Mapping[str, Any],
    mode: str,
    threads: int,
) -> Report:
    """Every check of the product. expected: float32, logits of the first pairs; None if the machine had no room for the
    reference."""
    size = check_weights_file(folder, weights)
    rounding, figures = check_rounding(weights, limits.get("max_tensor_error"))
    report = Report(mode, [size, rounding], {"weights": figures})
    if not size.passed:
        return report
    with Reranker(folder, {"thread_num": threads}) as engine:
        report.checks += check_inputs(engine, reference["pairs"], reference["inputs"])
        if expected is None:
            report.checks += [not_run(name, str(reference["skipped"])) for name in (SCORES, RANKING)]
            return report
        scored = reference["pairs"][: len(expected)]
        found = np.array([next(engine.pair_logits(query, [document]))[0] for query, document in scored])
    checks, report.figures["rerank"] = check_logits(expected, found, reference["groups"], limits)
    report.checks += checks
    return report


def check_inputs(
    engine: Reranker, pairs: Sequence[Sequence[str]], inputs: Sequence[Mapping[str, Sequence[int]]]
) -> list[Check]:
    """Ids of every pair, those around the texts and the cut of a long one included, equal Hugging Face's; so do the
    token types, which the graph derives from one place in them."""
    wrong = [pair for pair, one in zip(pairs, inputs, strict=True) if engine.ids(*pair) != list(one["input_ids"])]
    told = "; ".join(f"{query[:40]!r} with {document[:40]!r}" for query, document in wrong[:3])
    typed = any(any(one.get("token_type_ids", ())) for one in inputs)
    return [
        equal("pairs tokenised otherwise", len(wrong), 0, told),
        equal("the document has token types of its own", engine.sees_types, typed),
    ]


def check_logits(
    expected: Logits, found: NDArray[Any], groups: Sequence[int], limits: Mapping[str, Any]
) -> tuple[list[Check], dict[str, Any]]:
    """The largest difference of a pair's two logits, as a share of the range of Hugging Face's; and the order of each
    query's documents. [pairs] each; groups: how many of the first pairs belong to each query."""
    differences = np.abs(found.astype(np.float64) - expected)
    spread = float(expected.max() - expected.min())
    error = float(differences.max()) / spread if spread and np.isfinite(differences).all() else float("nan")
    ranked = sum(groups)
    order, compared = kept_order(expected, found, groups, MARGIN * spread)
    checks = [
        at_most(SCORES, error, limits.get("max_score_error")),
        at_least(RANKING, order, limits.get("min_order")),
    ]
    figures = {
        "max_error": error,
        "max_logit_error": float(differences.max()),
        "logit_range": spread,
        "order": order,
        "order_of": compared,
        "rank_correlation": rank_correlation(expected[:ranked].astype(np.float64), found[:ranked].astype(np.float64)),
        "pairs": len(expected),
    }
    return checks, figures


def kept_order(
    expected: NDArray[Any], found: NDArray[Any], groups: Sequence[int], margin: float
) -> tuple[float, int]:
    """Of all two documents of one query whose logits are more than `margin` apart: (the share in the same order, their
    number). nan if there are none."""
    kept = []
    start = 0
    for size in groups:
        for one in range(start, start + size):
            for other in range(one + 1, start + size):
                distance = float(expected[one]) - float(expected[other])
                if abs(distance) > margin:
                    kept.append(distance * (float(found[one]) - float(found[other])) > 0)
        start += size
    return (sum(kept) / len(kept) if kept else float("nan")), len(kept)

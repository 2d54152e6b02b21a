"""The checks of a built embedding product on the real engine: files, token ids, vectors, the ranking of pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.mnn.runner import Embedder
from pipeline.verify.gate import Check, Report, at_least, equal, not_run
from pipeline.verify.product import check_rounding, check_weights_file

Vectors = NDArray[np.float32]


def judge(
    folder: Path,
    reference: Mapping[str, Any],
    expected: Vectors | None,
    weights: Mapping[str, Any],
    limits: Mapping[str, Any],
    mode: str,
    threads: int,
) -> Report:
    """Every check of the product. expected: float32 [texts, dimensions], None if the machine had no room for them."""
    size = check_weights_file(folder, weights)
    rounding, figures = check_rounding(weights, limits.get("max_tensor_error"))
    report = Report(mode, [size, rounding], {"weights": figures})
    if not size.passed:
        return report
    with Embedder(folder, {"thread_num": threads}) as engine:
        report.checks.append(check_ids(engine, reference["texts"], reference["ids"]))
        if expected is None:
            return _without_vectors(report, str(reference["skipped"]))
        found = np.stack([engine.embed(text) for text in reference["texts"]])
    checks, report.figures["embedding"] = check_vectors(expected, found, int(reference["ranked"]), limits)
    report.checks += checks
    return report


def check_ids(engine: Embedder, texts: Sequence[str], ids: Sequence[Sequence[int]]) -> Check:
    """Ids of every text, those around it and the cut of a long one included, equal Hugging Face's."""
    wrong = [text for text, one in zip(texts, ids, strict=True) if engine.fit(text)[1] != list(one)]
    return equal("texts tokenised otherwise", len(wrong), 0, "; ".join(repr(text[:60]) for text in wrong[:3]))


def check_vectors(
    expected: Vectors, found: Vectors, ranked: int, limits: Mapping[str, Any]
) -> tuple[list[Check], dict[str, Any]]:
    """Cosine of every text's two vectors; Spearman's rank correlation of the similarities of all pairs of the first
    `ranked` texts. float32 [texts, dimensions] each."""
    near = np.array([cosine(a, b) for a, b in zip(expected, found, strict=True)])
    ranking = rank_correlation(similarities(expected[:ranked]), similarities(found[:ranked]))
    checks = [
        at_least("lowest cosine to Hugging Face", float(near.min()), limits.get("min_cosine")),
        at_least("rank correlation of pairs", ranking, limits.get("min_rank_correlation")),
    ]
    figures = {
        "min_cosine": float(near.min()),
        "mean_cosine": float(near.mean()),
        "rank_correlation": ranking,
        "texts": len(near),
        "dimensions": int(found.shape[1]),
    }
    return checks, figures


def cosine(a: NDArray[Any], b: NDArray[Any]) -> float:
    """In float64; nan for a vector of zeros or one that is not finite."""
    one, other = a.astype(np.float64), b.astype(np.float64)
    length = float(np.linalg.norm(one) * np.linalg.norm(other))
    return float(one @ other) / length if length else float("nan")


def similarities(vectors: Vectors) -> NDArray[np.float64]:
    """Cosines of all pairs of different rows."""
    return np.array(
        [cosine(a, b) for number, a in enumerate(vectors) for b in vectors[number + 1 :]], dtype=np.float64
    )


def rank_correlation(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Spearman's: Pearson's correlation of the ranks (ties do not occur among cosines of different texts)."""
    one, other = (np.argsort(np.argsort(values)).astype(np.float64) for values in (first, second))
    return cosine(one - one.mean(), other - other.mean())


def _without_vectors(report: Report, reason: str) -> Report:
    report.checks += [not_run(name, reason) for name in ("lowest cosine to Hugging Face", "rank correlation of pairs")]
    return report

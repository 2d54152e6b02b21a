"""A cross-encoder's product asked by a person or over the network: it scores a query with each document at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.mnn.runner import Reranker
from pipeline.use.settings import check_keys


def is_cross_encoder(product: Path) -> bool:
    """Whether the product at `product` has a head that scores pairs. Raises UserError as `check_keys`."""
    return bool(check_keys(product).manifest.get("model", {}).get("task") == "rerank")


def open_reranker(product: Path, changes: dict[str, Any], timeout: float) -> Reranker:
    """The product on the engine (not loaded yet), `changes` merged last. UserError for a product of another kind."""
    if not is_cross_encoder(product):
        raise UserError(f"{product} is no cross-encoder", "export one, e.g. doit export model=bge-reranker-base")
    return Reranker(product, changes, timeout)


def scores(engine: Reranker, query: str, documents: Sequence[str], raw: bool = False) -> Iterator[tuple[float, int]]:
    """(score, tokens read) for each document, in order. raw: the logit itself, whatever the model's authors make of
    it. Raises UserError for texts that cannot be scored."""
    if not query:
        raise UserError("the query is empty", "ask something")
    for logit, tokens in engine.pair_logits(query, documents):
        yield (logit if raw else engine.score(logit)), tokens

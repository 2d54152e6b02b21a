"""`Reranker`: a cross-encoder's product in a child process, one score for a query and a document."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.mnn.runner.embedder import lay_out
from pipeline.mnn.runner.engine import Engine
from pipeline.mnn.runner.product import ProductError
from pipeline.tokenizer.pair import Pair


class Reranker(Engine):
    """A cross-encoder on MNN's own embedding class. A context manager, as Engine; overrides as there.

    pair: how a query and a document become one sequence, as Hugging Face has it. Raises ProductError for a product
    whose manifest does not say it.
    """

    child = "pipeline.mnn.runner.reranking_child"

    def __init__(
        self, path: Path | str, overrides: Mapping[str, Any] | None = None, timeout: float = 600.0, **more: Any
    ) -> None:
        super().__init__(path, overrides, timeout, sampled=True, **more)
        told = self.product.manifest.get("model", {}).get("pair")
        if not told:
            raise ProductError(f"{self.product.folder} does not say how pairs are written", "export the model again")
        self.pair = Pair(tuple(told["before"]), tuple(told["between"]), tuple(told["after"]), bool(told["typed"]))
        # The row that stands for the last separator between the texts, by which the graph knows the document.
        flag = told["flag"]
        self._fed = self.pair if flag is None else replace(self.pair, between=(*self.pair.between[:-1], int(flag)))
        self._activation = str(told["activation"])
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def __enter__(self) -> Reranker:
        self.load()
        return self

    def load(self) -> None:
        """As Engine's. The engine's class reads its keys from files only: they are written for this session."""
        if self._process is not None:
            return
        self._folder = tempfile.TemporaryDirectory(prefix="reranker-", ignore_cleanup_errors=True)
        whole, _ = lay_out(self.product, Path(self._folder.name), self.overrides)
        self._start()
        head, _ = self._call("load_reranker", config=str(whole))
        self.config = head["config"]
        self.stats["load"] = head["seconds"]

    @property
    def sees_types(self) -> bool:
        """Whether the graph knows the document's tokens from the query's by their type."""
        return self._fed is not self.pair

    def ids(self, query: str, document: str) -> list[int]:
        """The pair as Hugging Face writes it, cut at the model's longest. Raises UserError for U+0000."""
        return self.pair.join(self._encoded(query), self._encoded(document), self.product.positions)

    def pair_logits(self, query: str, documents: Sequence[str]) -> Iterator[tuple[float, int]]:
        """(what the model's head gives, tokens read) for each document, in order. Raises UserError for U+0000."""
        asked = self._encoded(query)
        for document in documents:
            yield self._logit(self._fed.join(asked, self._encoded(document), self.product.positions))

    def score(self, logit: float) -> float:
        """The logit as the model's authors mean it: through the sigmoid, 0 … 1, or as it is."""
        return _sigmoid(logit) if self._activation == "sigmoid" else logit

    def close(self, keep_log: bool = False) -> None:
        """As Engine's."""
        super().close(keep_log)
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def _encoded(self, text: str) -> list[int]:
        if "\0" in text:
            raise UserError("a text holds U+0000, where the engine would cut it", "take it out")
        return self.tokenize(text) if text else []

    def _logit(self, ids: Sequence[int]) -> tuple[float, int]:
        head, arrays = self._call("score", ids=self._checked(ids))
        self._count("score", head)
        if arrays[0].shape != (1,) or not math.isfinite(arrays[0][0]):
            raise self._failure("gave a score that is no number")
        return float(arrays[0][0]), len(ids)


def _sigmoid(logit: float) -> float:
    """Without an overflow for large logits of either sign."""
    if logit >= 0:
        return 1 / (1 + math.exp(-logit))
    return math.exp(logit) / (1 + math.exp(logit))

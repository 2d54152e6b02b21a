"""The child process of a cross-encoder: `python -m pipeline.mnn.runner.reranking_child FD`, as `child` for the rest.

The engine's embedding class takes token ids in C++ (`ids_embedding`), but not in Python. Its reranker for "gte" is made
of such an object and hands it out as a plain Llm, whose forward() takes ids. Scoring by that reranker itself would not
do: it writes the ids of one tokenizer around every pair (reranker.hpp, tag 3.6.1).
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.mnn.runner.child import Reply, Session, main


class RerankingSession(Session):
    """One loaded cross-encoder."""

    def load_reranker(self, config: str) -> Reply:
        """config: a config file. Raises RuntimeError for an engine without the reranker's class."""
        importlib.import_module("MNN.llm")
        native = importlib.import_module("_mnncengine").llm
        began = time.perf_counter()
        self._owner: Any = native.create_reranker("gte", config)  # the object below is a part of it
        self._owner.load()
        self._model = self._owner.get_llm()
        seconds = time.perf_counter() - began
        return {"seconds": seconds, "config": json.loads(Path(config).read_text("utf-8"))}, []

    def score(self, ids: list[int]) -> Reply:
        """What the graph makes of the ids: float32 [columns]."""
        began = time.perf_counter()
        self._clear()
        row = np.asarray(self._model.forward(ids).read(), dtype=np.float32).reshape(-1)
        return {"seconds": time.perf_counter() - began}, [row]


if __name__ == "__main__":
    main(int(sys.argv[1]), RerankingSession())

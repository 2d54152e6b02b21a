"""The child process of an embedding model: `python -m pipeline.mnn.runner.embedding_child FD`, as `child` for the rest.

The engine's embedding object takes texts only and has no working tokenizer call, so a second object, with the same
tokenizer and no graph, counts tokens.
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


class EmbeddingSession(Session):
    """One loaded embedding model."""

    def load_embedding(self, config: str, tokenizer: str) -> Reply:
        """config, tokenizer: config files; create() itself loads the first, and the second's graph is empty."""
        module = importlib.import_module("MNN.llm")
        began = time.perf_counter()
        self._model = module.create(tokenizer)._c_obj
        self._model.load()  # False: it keeps its tokenizer all the same
        self._embedding: Any = module.create(config, True)
        seconds = time.perf_counter() - began
        return {"seconds": seconds, "config": json.loads(Path(config).read_text("utf-8"))}, []

    def embed(self, text: str) -> Reply:
        """The vector of a text, through the product's template: float32 [dimensions]."""
        began = time.perf_counter()
        vector = np.asarray(self._embedding.txt_embedding(text).read(), dtype=np.float32).reshape(-1)
        return {"seconds": time.perf_counter() - began}, [vector]


if __name__ == "__main__":
    main(int(sys.argv[1]), EmbeddingSession())

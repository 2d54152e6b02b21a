"""The engine, driven from a child process: it trusts every file and id, and dies rather than complains."""

from pipeline.mnn.runner.embedder import Embedder
from pipeline.mnn.runner.engine import Engine, EngineError
from pipeline.mnn.runner.reranker import Reranker

__all__ = ["Embedder", "Engine", "EngineError", "Reranker"]

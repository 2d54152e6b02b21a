"""Shared material: a log that keeps its notes, and the smallest set of files that counts as a model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save


class KeptLog:
    """The stage log's protocol, keeping what it is told."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def progress(self, done: int, total: int, what: str) -> None:
        pass

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.fixture
def log() -> KeptLog:
    return KeptLog()


@pytest.fixture
def model_files() -> dict[str, bytes]:
    """A Hugging Face folder's files by name, with some that an export does not need."""
    return {
        "config.json": json.dumps({"model_type": "llama"}).encode(),
        "generation_config.json": b'{"do_sample": true}',
        "tokenizer.json": b'{"version": "1.0"}',
        "tokenizer_config.json": b"{}",
        "model.safetensors": save({"a": np.arange(6, dtype=np.float32)}),
        "pytorch_model.bin": b"never fetched",
        "README.md": b"# never fetched",
        "modeling_own.py": b"raise SystemExit",
        "onnx/model.onnx": b"never fetched",
    }


@pytest.fixture
def folder(tmp_path: Path, model_files: dict[str, bytes]) -> Path:
    """The same files on the disk."""
    root = tmp_path / "model"
    for name, content in model_files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return root

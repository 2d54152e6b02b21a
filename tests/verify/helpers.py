"""A tiny llama with the byte tokenizer as a Hugging Face folder, and a recipe for the stages that verify it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipeline.recipe.schema import Target
from pipeline.verify.random_model import random_model, write_folder
from tests.tiny_models import tiny_config

VOCABULARY = 256  # every id is a byte, so that any answer can be decoded
QUESTION = "Why?"
RUNTIME = {"thread_num": 1, "memory": "low", "precision": "low", "dynamic_option": 2}
TARGET: dict[str, Any] = asdict(Target(name="x86", runtime=dict(RUNTIME)))
MODEL: dict[str, Any] = {"trust_remote_code": False, "allow_pickle": False, "gptq_path": ""}


class Notes:
    """A log that keeps what it is told."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def progress(self, done: int, total: int, what: str) -> None:
        assert 0 <= done <= total, what

    def note(self, text: str) -> None:
        self.notes.append(text)


def verify_options(**changes: Any) -> dict[str, Any]:
    """The recipe's `verify`, small."""
    limits = {"selfcheck_logit_error": 1e-3, "max_kld": 1e-6, "min_top1": 0.99, "max_logit_error_absolute": 1e-3}
    limits |= {"greedy_equal": True, "max_tensor_error": 1e-3}
    options: dict[str, Any] = {"mode": "fast", "sequences": 2, "length": 24, "max_new_tokens": 12, "question": QUESTION}
    return {**options, "threads": 1, "reference_memory_gb": 8.0, "thresholds": {"16": limits}, **changes}


def write_model(folder: Path, family: str = "llama", **overrides: Any) -> Path:
    """A Hugging Face folder with config.json, model.safetensors and the byte tokenizer."""
    config = tiny_config(family, vocab_size=VOCABULARY, bos_token_id=None, eos_token_id=None, **overrides)
    write_folder(random_model(config), folder, folder)
    return folder

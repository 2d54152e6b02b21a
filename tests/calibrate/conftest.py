"""A two-layer random Llama, small enough to check every figure against the whole model in memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from pipeline.calibrate.stream import Stream
from pipeline.checkpoint import open_checkpoint
from pipeline.weights.layout import Linear, Part


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=96, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, tie_word_embeddings=False, initializer_range=0.2,
    )
    path = tmp_path_factory.mktemp("llama")
    LlamaForCausalLM(config).float().save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def whole(folder: Path) -> Any:
    return LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


@pytest.fixture
def stream(folder: Path) -> Stream:
    return Stream(LlamaConfig.from_pretrained(folder), open_checkpoint(folder))


@pytest.fixture(scope="session")
def linears(whole: Any) -> list[Linear]:
    return [
        Linear(name, module.out_features, module.in_features, (Part(f"{name}.weight"),))
        for name, module in whole.named_modules()
        if isinstance(module, torch.nn.Linear)
    ]


@pytest.fixture(scope="session")
def sequences() -> list[list[int]]:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 96, (6, 24), generator=generator).tolist()

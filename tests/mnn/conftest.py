"""One tiny product for all tests of this room (1.5 s to make)."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import Qwen3ForCausalLM

from tests.mnn.handmade import tiny_model, write_product

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def model() -> Qwen3ForCausalLM:
    return tiny_model()


@pytest.fixture(scope="session")
def product(model: Qwen3ForCausalLM, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_product(model, tmp_path_factory.mktemp("mnn") / "tiny")

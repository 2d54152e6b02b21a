"""Random models: the same on every run, exact in fp16 and bfloat16, with logits that tell right from wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from pipeline.verify.huggingface import sequence_logits
from pipeline.verify.random_model import random_model
from tests.tiny_models import tiny_config
from tests.verify.helpers import write_model

FAMILIES = ["llama", "qwen2", "gemma3"]
IDS = list(range(3, 43))


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_are_the_same_whatever_was_drawn_before(family: str) -> None:
    first = random_model(tiny_config(family)).state_dict()
    torch.rand(7)
    second = random_model(tiny_config(family)).state_dict()
    assert all(torch.equal(value, second[name]) for name, value in first.items())


@pytest.mark.parametrize("family", FAMILIES)
def test_every_weight_is_exact_in_fp16_and_bfloat16(family: str) -> None:
    for name, value in random_model(tiny_config(family)).named_parameters():
        assert torch.equal(value.half().float(), value), name
        assert torch.equal(value.bfloat16().float(), value), name


@pytest.mark.parametrize("family", FAMILIES)
def test_no_vector_is_left_at_its_trivial_value(family: str) -> None:
    for name, value in random_model(tiny_config(family)).named_parameters():
        if value.dim() == 1:
            assert value.std() > 0.05, name


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_vary_and_depend_on_the_whole_context(family: str) -> None:
    model = random_model(tiny_config(family))
    logits = sequence_logits(model, IDS)
    assert logits.std() > 0.3
    changed = sequence_logits(model, [IDS[1], IDS[0], *IDS[2:]])
    assert np.abs(logits[10] - changed[10]).max() > 0.01 * np.abs(logits).max()


def test_folder_loads_in_transformers_with_the_same_logits(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", tie_word_embeddings=True)
    loaded = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    config = loaded.config
    assert config.tie_word_embeddings
    expected = sequence_logits(random_model(config), IDS)
    np.testing.assert_allclose(sequence_logits(loaded, IDS), expected, atol=1e-5)


def test_the_byte_tokenizer_gives_back_any_text(tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(write_model(tmp_path / "model"))
    ids = tokenizer("né 你\n", add_special_tokens=False)["input_ids"]
    assert len(ids) == len("né 你\n".encode())
    assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == "né 你\n"


@pytest.mark.parametrize("family", ["qwen3_5", "olmo_hybrid"])
def test_a_delta_net_remembers(family: str) -> None:
    """Its own starting values would have most heads forget within a token, and no state would ever be tested."""
    for module in random_model(tiny_config(family)).modules():
        if hasattr(module, "A_log"):
            decay = torch.exp(-module.A_log.exp() * torch.nn.functional.softplus(module.dt_bias))
            assert decay.min() > 0.5 and decay.max() < 1

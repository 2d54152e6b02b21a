"""The architecture self-check passes what is right, on the real engine, and sees single mistakes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.build.config import subset
from pipeline.stages import selfcheck as stage
from pipeline.verify import selfcheck
from pipeline.verify.huggingface import load_model
from pipeline.verify.metrics import Logits
from tests.tiny_models import tiny_config
from tests.verify.helpers import MODEL, TARGET, VOCABULARY, Notes, write_model

LIMIT = 1e-3
GRAPH = {"allow_approximate": False}
IDS = selfcheck.random_tokens(VOCABULARY)


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_error_is_far_below_the_limit(family: str, tmp_path: Path) -> None:
    checkpoint, out = tmp_path / "checkpoint", tmp_path / "out"
    tiny_config(family, vocab_size=VOCABULARY).save_pretrained(checkpoint)
    out.mkdir()
    log = Notes()
    config = subset({"model": MODEL, "target": TARGET, "graph": GRAPH}, stage.STAGE.config)
    stage.run(config, {"checkpoint": checkpoint}, out, log)
    told = json.loads((out / "selfcheck.json").read_text())
    assert 0 < told["error"] < LIMIT / 10
    assert told["max_logit"] > 1
    assert told["error"] == max(told["prefill_error"], told["decode_error"])
    assert told["layers"] == {"llama": [0, 1], "gemma3": [0, 2]}[family]
    assert log.notes


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny llama through every stage; its reference is the source folder beside it."""
    root = tmp_path_factory.mktemp("selfcheck")
    source = write_model(root / "source")
    return selfcheck.build(source, root, selfcheck.fp16_recipe(MODEL, TARGET, GRAPH))


def error(product: Path, reference: Logits) -> float:
    return selfcheck.compare(reference, selfcheck.engine_logits(product, IDS))["error"]


def reference_of(product: Path, **changes: torch.Tensor) -> Logits:
    """Hugging Face's logits of the product's source, with some weights replaced."""
    model = load_model(product.parent / "source", MODEL)
    with torch.no_grad():
        for name, value in changes.items():
            model.get_parameter(name.replace("__", ".")).copy_(value)
    return selfcheck.reference_logits(model, IDS)


def test_the_product_agrees_in_prefill_and_in_every_cached_step(product: Path) -> None:
    reference = reference_of(product)
    assert reference.shape == (selfcheck.PREFILL + selfcheck.DECODE, VOCABULARY)
    assert error(product, reference) < LIMIT / 10


@pytest.mark.parametrize(
    "name",
    [
        "model.layers.0.input_layernorm.weight",
        "model.layers.1.mlp.up_proj.weight",
        "model.layers.0.self_attn.k_proj.weight",
    ],
)
def test_one_forgotten_or_permuted_tensor_is_seen(product: Path, name: str) -> None:
    weight = load_model(product.parent / "source", MODEL).get_parameter(name)
    wrong = torch.ones_like(weight) if weight.dim() == 1 else weight.roll(1, 0)
    assert error(product, reference_of(product, **{name.replace(".", "__"): wrong})) > 10 * LIMIT


def test_a_wrong_mask_is_seen(product: Path, tmp_path: Path) -> None:
    """With attention_mask "int" the engine lets tokens look ahead."""
    wrong = tmp_path / "product"
    wrong.mkdir()
    for path in product.iterdir():
        (wrong / path.name).symlink_to(path.resolve())
    config = json.loads((product / "llm_config.json").read_text())
    (wrong / "llm_config.json").unlink()
    (wrong / "llm_config.json").write_text(json.dumps({**config, "attention_mask": "int"}))
    assert error(wrong, reference_of(product)) > 10 * LIMIT


def test_logits_that_are_not_numbers_are_an_infinite_error() -> None:
    reference = np.ones((selfcheck.PREFILL + selfcheck.DECODE, 4), np.float32)
    engine = reference.copy()
    engine[3, 1] = np.nan
    compared = selfcheck.compare(reference, engine)
    assert compared["error"] == compared["prefill_error"] == float("inf")


def test_missing_rows_are_an_error() -> None:
    with pytest.raises(ValueError, match="cannot be compared"):
        selfcheck.compare(np.ones((3, 4), np.float32), np.ones((2, 4), np.float32))


def test_the_key_does_not_depend_on_the_weights_precision() -> None:
    assert not any(path.startswith(("quant", "verify", "adapter", "embedding")) for path in stage.STAGE.config)

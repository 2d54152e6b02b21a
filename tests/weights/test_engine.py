"""Every width on the engine: its logits against Hugging Face's with the weights that our file stands for."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Qwen3ForCausalLM

from pipeline.mnn.converter import Converter
from pipeline.mnn.link import link
from pipeline.mnn.runner import Engine
from pipeline.mnn.skeleton import build_skeleton
from pipeline.weights import plain
from pipeline.weights.hashed import HashedFile
from pipeline.weights.layout import Layout, Linear, Part
from pipeline.weights.matrix import Encoder
from pipeline.weights.precision import Precision
from pipeline.weights.writer import write
from tests.mnn.handmade import linear_weights, tiny_model, write_onnx, write_product
from tests.weights.helpers import checkpoint, dequantised

IDS = [1, 5, 100, 256, 30, 40, 77, 257, 12, 299, 0, 64]
CASES = [Precision(bits, 32) for bits in range(2, 9)] + [
    Precision(2, 32, symmetric=True),
    Precision(3, 16, symmetric=True, scale_bits=32),
    Precision(4, 32, symmetric=True),
    Precision(8, 32, symmetric=True),
    Precision(4, 0, scale_bits=32),
    Precision(4, 16, scale_bits=32),
    Precision(16),
]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def model() -> Qwen3ForCausalLM:
    return tiny_model()


@pytest.fixture(scope="module")
def base(model: Qwen3ForCausalLM, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A product in fp16, and the skeleton that others are linked from."""
    folder = write_product(model, tmp_path_factory.mktemp("base") / "tiny")
    build_skeleton(write_onnx(model, folder / "a.onnx"), folder / "skeleton.json", folder / "work", True)
    return folder


def product(base: Path, folder: Path, model: Qwen3ForCausalLM, precision: Precision) -> dict[str, Any]:
    """The product at `folder` with our weight file; weights.json's content."""
    shutil.copytree(base, folder)
    weights = {name: values.detach().numpy() for name, values in linear_weights(model).items()}
    linears = tuple(Linear(name, *values.shape, (Part(name),)) for name, values in weights.items())
    precisions = {one.name: replace(precision, block=precision.block or one.in_features) for one in linears}
    encoder = Encoder(checkpoint(**weights), plain)
    (folder / "llm.mnn.weight").unlink(missing_ok=True)
    with HashedFile(folder / "llm.mnn.weight") as file:
        written = write(file, Layout(linears), precisions, encoder, lambda done: None)
    (folder / "llm.mnn").unlink()
    (folder / "work2").mkdir()
    link(folder / "skeleton.json", written, folder, folder / "work2", Converter(folder / "log"), True)
    return written


@pytest.mark.parametrize("precision", CASES, ids=str)
def test_logits_equal_those_of_the_dequantised_weights(
    precision: Precision, base: Path, model: Qwen3ForCausalLM, tmp_path: Path
) -> None:
    folder = tmp_path / "product"
    written = product(base, folder, model, precision)
    blob = (folder / "llm.mnn.weight").read_bytes()
    twin = tiny_model()
    with torch.no_grad():
        for name, entry in written["linears"].items():
            twin.get_submodule(name).weight.copy_(torch.from_numpy(dequantised(blob, entry)))
        expected = twin(torch.tensor([IDS])).logits[0].numpy()
        original = model(torch.tensor([IDS])).logits[0].numpy()
    with Engine(folder, {"memory": "high"}) as engine:
        found = engine.logits(IDS)
    assert np.abs(found - expected).max() < 1e-3 * np.abs(expected).max()
    if precision.bits < 8:
        assert np.abs(found - original).max() > 10 * np.abs(found - expected).max()

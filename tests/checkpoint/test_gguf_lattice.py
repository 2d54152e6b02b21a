"""GGUF's lattices: the library's values to the last bit, and codes and scales that mean the same."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest

from pipeline.checkpoint import QuantisedTensor
from pipeline.checkpoint.gguf import open_gguf
from pipeline.checkpoint.gguf_lattice import LATTICES
from tests.checkpoint.gguf_files import tiny_model, write_model

NAME = "model.layers.1.self_attn.q_proj.weight"


@pytest.mark.parametrize("kind", sorted(LATTICES))
@pytest.mark.parametrize("family", ["llama", "qwen2"])  # with permuted rows, and without
def test_values_and_lattice(tmp_path: Path, kind: str, family: str) -> None:
    model = tiny_model(family)
    write_model(tmp_path / "m.gguf", family, model, kind)
    tensor = open_gguf([tmp_path / "m.gguf"])[NAME]
    number = gguf.GGMLQuantizationType[kind]
    weight = model.state_dict()[NAME].numpy()
    expected = gguf.quants.dequantize(gguf.quants.quantize(weight, number), number)
    assert isinstance(tensor, QuantisedTensor)
    assert (tensor.block, tensor.bits, tensor.dtype) == (32, int(kind[1]), kind)
    np.testing.assert_array_equal(tensor.read(), expected)
    np.testing.assert_array_equal(tensor.read(3, 30), expected[3:30])
    codes, (scales, zeros) = tensor.read_codes(3, 30), tensor.read_scales(3, 30)
    half = 1 << (tensor.bits - 1)
    blocks = (codes.reshape(27, -1, 32).astype(np.float64) - half) * scales[..., None] + zeros[..., None]
    np.testing.assert_allclose(blocks.reshape(27, -1), expected[3:30], atol=1e-7)
    assert tensor.symmetric is kind.endswith("_0") and tensor.symmetric is not zeros.any()


def test_smollm2_is_a_lattice_throughout(smollm2: Path) -> None:
    checkpoint = open_gguf([smollm2])
    matrices = [tensor for tensor in checkpoint.values() if len(tensor.shape) == 2]
    assert len(matrices) == 211 and all(isinstance(tensor, QuantisedTensor) for tensor in matrices)
    tensor = checkpoint["model.layers.7.mlp.up_proj.weight"]
    assert isinstance(tensor, QuantisedTensor)
    scales, zeros = tensor.read_scales(0, 64)
    codes = tensor.read_codes(0, 64).reshape(64, -1, 32).astype(np.float32)
    exact = (codes - 8) * scales[..., None] + zeros[..., None]
    np.testing.assert_allclose(exact.reshape(64, -1), tensor.read(0, 64), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("kind", sorted(LATTICES))
def test_random_bytes_are_decoded_as_the_library_does(tmp_path: Path, kind: str) -> None:
    """Every code, and scales that no quantiser would write."""
    block, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
    random = np.random.default_rng(0)
    raw = random.integers(0, 256, (40, 4, size), np.uint8)
    raw[:, :, :2] = random.standard_normal((40, 4)).astype(np.float16)[..., None].view(np.uint8)
    if kind.endswith("_1"):
        raw[:, :, 2:4] = random.standard_normal((40, 4)).astype(np.float16)[..., None].view(np.uint8)
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "qwen2")
    writer.add_tensor("output.weight", raw.reshape(40, -1), raw_dtype=gguf.GGMLQuantizationType[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    expected = gguf.quants.dequantize(raw.reshape(40, -1), gguf.GGMLQuantizationType[kind])
    tensor = open_gguf([tmp_path / "m.gguf"])["lm_head.weight"]
    assert tensor.shape == (40, 4 * block)
    np.testing.assert_array_equal(tensor.read(), expected)

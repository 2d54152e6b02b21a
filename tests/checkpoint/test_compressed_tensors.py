"""compressed-tensors: int4 and int8 packed, int8 and fp8 plain, symmetric or not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from pipeline.checkpoint import QuantisedTensor, open_checkpoint
from pipeline.errors import StageFailed
from tests.checkpoint.quantised_files import compressed_tensors, random_linear, write_folder

NAME = "model.layers.0.mlp.down_proj"
RANDOM = np.random.default_rng(4)


def folder(path: Path, tensors: dict[str, Any], kind: str = "pack-quantized") -> Path:
    return write_folder(path, tensors, {"quant_method": "compressed-tensors", "format": kind})


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(("bits", "group"), [(4, 32), (4, 128), (8, 64)])
def test_packed(tmp_path: Path, bits: int, group: int, symmetric: bool) -> None:
    linear = random_linear(64, 128, bits, group, symmetric)
    tensor = open_checkpoint(folder(tmp_path, compressed_tensors(NAME, linear, bits, symmetric)))[f"{NAME}.weight"]
    assert isinstance(tensor, QuantisedTensor)
    assert (tensor.bits, tensor.block, tensor.symmetric, tensor.dtype) == (bits, group, symmetric, f"CT_INT{bits}")
    np.testing.assert_array_equal(tensor.read(), linear.weight)
    np.testing.assert_array_equal(tensor.read(9, 50), linear.weight[9:50])
    np.testing.assert_array_equal(tensor.read_codes(9, 50), linear.codes[9:50])


def test_activation_order(tmp_path: Path) -> None:
    linear = random_linear(64, 128, 4, 32, act_order=True)
    tensor = open_checkpoint(folder(tmp_path, compressed_tensors(NAME, linear, 4, False)))[f"{NAME}.weight"]
    assert not isinstance(tensor, QuantisedTensor)
    np.testing.assert_array_equal(tensor.read(9, 50), linear.weight[9:50])


def test_plain_int8_by_row(tmp_path: Path) -> None:
    codes = RANDOM.integers(-128, 128, (16, 64)).astype(np.int8)
    scale = RANDOM.uniform(0.01, 0.1, (16, 1)).astype(np.float16)
    tensors = {f"{NAME}.weight": codes, f"{NAME}.weight_scale": scale, f"{NAME}.input_scale": np.ones(1, np.float32)}
    checkpoint = open_checkpoint(folder(tmp_path, tensors, "int-quantized"))
    assert sorted(checkpoint) == [f"{NAME}.weight"]
    tensor = checkpoint[f"{NAME}.weight"]
    assert isinstance(tensor, QuantisedTensor) and (tensor.bits, tensor.block, tensor.symmetric) == (8, 64, True)
    np.testing.assert_array_equal(tensor.read(3, 9), (codes * scale.astype(np.float32))[3:9])


@pytest.mark.parametrize("scales", [(16, 1), (1,), (16, 2)])
def test_fp8(tmp_path: Path, scales: tuple[int, ...]) -> None:
    weight = RANDOM.standard_normal((16, 64)).astype(np.float32).astype(ml_dtypes.float8_e4m3fn)
    scale = RANDOM.uniform(0.01, 0.1, scales).astype(np.float32)
    import torch
    from safetensors.torch import save_file

    path = folder(tmp_path, {f"{NAME}.weight_scale": scale}, "float-quantized")
    eight = torch.from_numpy(weight.view(np.uint8)).view(torch.float8_e4m3fn)
    save_file(
        {f"{NAME}.weight": eight, f"{NAME}.weight_scale": torch.from_numpy(scale)}, str(path / "model.safetensors")
    )
    tensor = open_checkpoint(path)[f"{NAME}.weight"]
    expected = eight.float().reshape(16, scale.size // 16 or 1, -1) * torch.from_numpy(scale).reshape(
        -1, scale.size // 16 or 1, 1
    )
    np.testing.assert_array_equal(tensor.read(2, 11), expected.reshape(16, 64)[2:11].numpy())


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({}, "nvfp4-pack-quantized", "'nvfp4-pack-quantized' is not read here"),
        ({"weight_packed": None}, "pack-quantized", "a scale and no int4, int8 or fp8 weight"),
        ({"weight_scale": np.ones((60, 4), np.float16)}, "pack-quantized", r"scales \[60, 4\] for 64 rows"),
        ({"weight_packed": np.zeros((64, 9), np.int32)}, "pack-quantized", "is packed as"),
        ({"weight_scale": None}, "pack-quantized", "no tensor has a weight_scale"),
    ],
)
def test_what_does_not_fit(tmp_path: Path, change: dict[str, Any], kind: str, message: str) -> None:
    tensors = compressed_tensors(NAME, random_linear(64, 128, 4, 32), 4, False)
    tensors |= {f"{NAME}.{part}": value for part, value in change.items()}
    with pytest.raises(StageFailed, match=message):
        open_checkpoint(folder(tmp_path, {k: v for k, v in tensors.items() if v is not None}, kind))


def test_the_library_packs_as_the_writer_does() -> None:
    """Where compressed-tensors is installed, its own packing is the judge of the writer above."""
    helpers = pytest.importorskip("compressed_tensors.compressors.pack_quantized.helpers")
    import torch

    from tests.checkpoint.quantised_files import bit_stream

    for bits in (4, 8):
        codes = RANDOM.integers(0, 1 << bits, (8, 64))
        signed = torch.from_numpy(codes - (1 << (bits - 1))).to(torch.int8)
        np.testing.assert_array_equal(helpers.pack_to_int32(signed, bits).numpy(), bit_stream(codes.T, bits).T)
        np.testing.assert_array_equal(
            helpers.pack_to_int32(signed, bits, packed_dim=0).numpy(), bit_stream(codes, bits)
        )

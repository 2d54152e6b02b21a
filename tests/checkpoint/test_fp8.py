"""FP8 checkpoints against transformers' own dequantisation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers.integrations.finegrained_fp8 import _dequantize_fp8_weight

from pipeline.checkpoint import QuantisedTensor, open_checkpoint
from pipeline.errors import StageFailed
from tests.checkpoint.quantised_files import write_folder

NAME = "model.layers.0.mlp.down_proj.weight"


def folder(path: Path, tensors: dict[str, torch.Tensor], **config: Any) -> Path:
    write_folder(path, {"x": np.ones(1, np.float32)}, {"quant_method": "fp8", "weight_block_size": [16, 32], **config})
    save_file(tensors, str(path / "model.safetensors"))
    return path


def eight_bit(rows: int, columns: int) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(0)).to(torch.float8_e4m3fn)


@pytest.mark.parametrize(("rows", "columns"), [(48, 96), (40, 80), (16, 32), (5, 7)])
def test_blocks_of_rows_and_columns(tmp_path: Path, rows: int, columns: int) -> None:
    weight = eight_bit(rows, columns)
    scale = torch.rand(-(-rows // 16), -(-columns // 32), generator=torch.Generator().manual_seed(1)) + 0.1
    checkpoint = open_checkpoint(folder(tmp_path, {NAME: weight, f"{NAME}_scale_inv": scale, "norm": torch.ones(3)}))
    assert sorted(checkpoint) == [NAME, "norm"]
    expected = _dequantize_fp8_weight(weight, scale, [16, 32], torch.float32).numpy()
    np.testing.assert_array_equal(checkpoint[NAME].read(), expected)
    np.testing.assert_array_equal(checkpoint[NAME].read(3, rows - 1), expected[3 : rows - 1])
    assert not isinstance(checkpoint[NAME], QuantisedTensor) and checkpoint[NAME].dtype == "F8_E4M3"


@pytest.mark.parametrize("shape", [(), (1,), (24,), (24, 1)])
def test_scales_by_tensor_and_by_row(tmp_path: Path, shape: tuple[int, ...]) -> None:
    weight, scale = eight_bit(24, 8), torch.rand(shape, generator=torch.Generator().manual_seed(2)) + 0.1
    path = folder(tmp_path, {NAME: weight, f"{NAME}_scale": scale}, weight_block_size=None)
    expected = weight.float() * (scale.reshape(-1, 1) if scale.numel() > 1 else scale.reshape(1, 1))
    np.testing.assert_array_equal(open_checkpoint(path)[NAME].read(2, 20), expected[2:20].numpy())


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({NAME: eight_bit(32, 32)}, "has no scale beside it"),
        ({NAME: eight_bit(32, 32), f"{NAME}_scale_inv": torch.ones(3, 1)}, r"has scales \[3, 1\] for blocks"),
        ({NAME: torch.ones(4, 4)}, "no tensor is of that type"),
    ],
)
def test_what_does_not_fit(tmp_path: Path, tensors: dict[str, torch.Tensor], message: str) -> None:
    with pytest.raises(StageFailed, match=message):
        open_checkpoint(folder(tmp_path, tensors))


def test_scales_without_a_block_size(tmp_path: Path) -> None:
    tensors = {NAME: eight_bit(32, 32), f"{NAME}_scale_inv": torch.ones(2, 1)}
    with pytest.raises(StageFailed, match="no weight_block_size"):
        open_checkpoint(folder(tmp_path, tensors, weight_block_size=None))


def test_fp8_without_a_config(tmp_path: Path) -> None:
    path = folder(tmp_path, {NAME: eight_bit(4, 4)})
    (path / "config.json").write_text("{}")
    with pytest.raises(StageFailed, match="no quantization_config"):
        open_checkpoint(path)

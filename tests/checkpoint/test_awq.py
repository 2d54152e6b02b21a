"""AWQ's GEMM layout against a writer that follows AutoAWQ's packing loop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.checkpoint import QuantisedTensor, open_checkpoint
from pipeline.errors import StageFailed
from tests.checkpoint.quantised_files import awq_tensors, random_linear, write_folder

NAME = "model.layers.0.mlp.up_proj"


def folder(path: Path, tensors: dict[str, Any], **config: Any) -> Path:
    return write_folder(
        path, tensors, {"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemm", **config}
    )


@pytest.mark.parametrize("group", [32, 128])
@pytest.mark.parametrize("rows", [(0, None), (3, 21), (8, 16), (63, 64), (5, 5)])
def test_exact(tmp_path: Path, group: int, rows: tuple[int, int | None]) -> None:
    linear = random_linear(64, 128, 4, group)
    tensor = open_checkpoint(folder(tmp_path, awq_tensors(NAME, linear), group_size=group))[f"{NAME}.weight"]
    assert isinstance(tensor, QuantisedTensor) and not tensor.symmetric
    assert (tensor.shape, tensor.bits, tensor.block, tensor.dtype) == ((64, 128), 4, group, "AWQ4")
    np.testing.assert_array_equal(tensor.read(*rows), linear.weight[slice(*rows)])
    np.testing.assert_array_equal(tensor.read_codes(*rows), linear.codes[slice(*rows)])


def test_one_group_for_all_inputs(tmp_path: Path) -> None:
    linear = random_linear(64, 128, 4, 128)
    tensor = open_checkpoint(folder(tmp_path, awq_tensors(NAME, linear), group_size=-1))[f"{NAME}.weight"]
    np.testing.assert_array_equal(tensor.read(), linear.weight)


@pytest.mark.parametrize(
    ("change", "config", "message"),
    [
        ({}, {"version": "gemv"}, "AWQ gemv with 4 bits"),
        ({}, {"bits": 8}, "AWQ gemm with 8 bits"),
        ({}, {"group_size": 64}, "for groups of 64"),
        ({"qzeros": None}, {}, "has no qzeros"),
        ({"scales": np.ones((4, 60), np.float16)}, {}, "do not belong together"),
    ],
)
def test_what_does_not_fit(tmp_path: Path, change: dict[str, Any], config: dict[str, Any], message: str) -> None:
    tensors = awq_tensors(NAME, random_linear(64, 128, 4, 32))
    tensors |= {f"{NAME}.{part}": value for part, value in change.items()}
    with pytest.raises(StageFailed, match=message):
        open_checkpoint(folder(tmp_path, {k: v for k, v in tensors.items() if v is not None}, **config))


def test_nothing_quantised(tmp_path: Path) -> None:
    with pytest.raises(StageFailed, match="AWQ, and no tensor is quantised"):
        open_checkpoint(folder(tmp_path, {"x": np.ones(3, np.float32)}))

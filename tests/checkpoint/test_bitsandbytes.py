"""bitsandbytes checkpoints: an independent writer always, and the library itself where it is installed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from pipeline.checkpoint import QuantisedTensor, open_checkpoint
from pipeline.errors import StageFailed
from tests.checkpoint.quantised_files import write_folder

NAME = "model.layers.0.mlp.up_proj.weight"
RANDOM = np.random.default_rng(5)


def written(rows: int, columns: int, nested: bool) -> tuple[dict[str, Any], np.ndarray]:
    """(the file's tensors, the values that they mean), from bitsandbytes' description of its QuantState."""
    count = rows * columns
    codes, table = RANDOM.integers(0, 16, count), RANDOM.uniform(-1, 1, 16).astype(np.float32)
    state: dict[str, Any] = {"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": [rows, columns]}
    runs = -(-count // 64)
    parts: dict[str, np.ndarray] = {"quant_map": table}
    if nested:
        state |= {"nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": 0.25}
        inner = RANDOM.integers(0, 256, runs).astype(np.uint8)
        inner_table = RANDOM.uniform(0, 1, 256).astype(np.float32)
        outer = RANDOM.uniform(0.1, 1, -(-runs // 256)).astype(np.float32)
        scales = inner_table[inner] * np.repeat(outer, 256)[:runs] + np.float32(0.25)
        parts |= {"absmax": inner, "nested_quant_map": inner_table, "nested_absmax": outer}
    else:
        scales = RANDOM.uniform(0.1, 1, runs).astype(np.float32)
        parts["absmax"] = scales
    tensors = {f"{NAME}.{part}": value for part, value in parts.items()}
    tensors[NAME] = (codes[0::2] << 4 | codes[1::2]).astype(np.uint8)[:, None]
    tensors[f"{NAME}.quant_state.bitsandbytes__nf4"] = np.frombuffer(json.dumps(state).encode(), np.uint8).copy()
    return tensors, (table[codes] * np.repeat(scales, 64)[:count]).reshape(rows, columns)


def folder(path: Path, tensors: dict[str, Any]) -> Path:
    norm = {"model.norm.weight": np.ones(4, np.float32)}
    return write_folder(path, {**tensors, **norm}, {"quant_method": "bitsandbytes", "load_in_4bit": True})


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize(("rows", "columns"), [(40, 128), (30, 48), (300, 64)])
def test_four_bits(tmp_path: Path, rows: int, columns: int, nested: bool) -> None:
    tensors, expected = written(rows, columns, nested)
    checkpoint = open_checkpoint(folder(tmp_path, tensors))
    assert sorted(checkpoint) == [NAME, "model.norm.weight"]
    tensor = checkpoint[NAME]
    assert tensor.shape == (rows, columns) and tensor.dtype == "BNB_NF4" and not isinstance(tensor, QuantisedTensor)
    for part in (slice(None), slice(0, 1), slice(7, 23), slice(rows - 1, rows), slice(5, 5)):
        np.testing.assert_array_equal(tensor.read(part.start or 0, part.stop), expected[part])


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
@pytest.mark.parametrize("nested", [False, True])
def test_against_the_library(tmp_path: Path, kind: str, nested: bool) -> None:
    library = pytest.importorskip("bitsandbytes")
    weight = torch.randn(96, 128, generator=torch.Generator().manual_seed(0)) * 0.1
    codes, state = library.functional.quantize_4bit(weight, quant_type=kind, compress_statistics=nested, blocksize=64)
    path = folder(tmp_path, {})
    parts = {f"{NAME}.{part}": value for part, value in state.as_dict(packed=True).items()}
    save_file({NAME: codes, **parts}, str(path / "model.safetensors"))
    expected = library.functional.dequantize_4bit(codes, state).float().numpy()
    np.testing.assert_allclose(open_checkpoint(path)[NAME].read(), expected, rtol=1e-6, atol=1e-8)


def test_eight_bits(tmp_path: Path) -> None:
    codes = RANDOM.integers(-127, 128, (24, 40)).astype(np.int8)
    largest = RANDOM.uniform(0.1, 2, 24).astype(np.float32)
    module = NAME.removesuffix(".weight")
    tensors = {NAME: codes, f"{module}.SCB": largest, f"{module}.weight_format": np.zeros((), np.uint8)}
    checkpoint = open_checkpoint(folder(tmp_path, tensors))
    assert sorted(checkpoint) == [NAME, "model.norm.weight"]
    expected = codes.astype(np.float64) * largest[:, None] / 127
    np.testing.assert_allclose(checkpoint[NAME].read(3, 20), expected[3:20], rtol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"absmax": None}, "has no absmax"),
        ({"absmax": np.ones(3, np.float32)}, "do not make up"),
        ({"quant_map": np.ones(8, np.float32)}, "do not make up"),
        ({"quant_state.bitsandbytes__nf4": np.frombuffer(b"{}", np.uint8).copy()}, "is not its description"),
        ({"quant_state.bitsandbytes__nf4": np.frombuffer(b"\xff", np.uint8).copy()}, "is not its description"),
    ],
)
def test_what_does_not_fit(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    tensors, _ = written(40, 128, False)
    tensors |= {f"{NAME}.{part}": value for part, value in change.items()}
    with pytest.raises(StageFailed, match=message):
        open_checkpoint(folder(tmp_path, {k: v for k, v in tensors.items() if v is not None}))


def test_nothing_quantised(tmp_path: Path) -> None:
    with pytest.raises(StageFailed, match="says bitsandbytes, and no tensor"):
        open_checkpoint(folder(tmp_path, {}))

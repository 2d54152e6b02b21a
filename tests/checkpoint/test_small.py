"""The values that travel beside the graph."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
from safetensors import safe_open

from pipeline.checkpoint.small import is_small, write_small
from pipeline.checkpoint.tensor import ArrayTensor


def tensor(*shape: int, dtype: type = np.float32) -> ArrayTensor:
    return ArrayTensor(np.ones(shape, np.float32).astype(dtype))


def test_what_is_small() -> None:
    assert is_small(tensor(200_000)) and is_small(tensor()) and is_small(tensor(256, 256))
    assert not is_small(tensor(256, 257)) and not is_small(tensor(2, 256, 256))


def test_floats_are_written_in_their_own_dtype_and_integers_are_not(tmp_path: Path) -> None:
    checkpoint = {
        "norm": tensor(8, dtype=ml_dtypes.bfloat16), "bias": tensor(4), "half": tensor(2, 2, dtype=np.float16),
        "mask": tensor(3, dtype=np.uint8), "codes": tensor(3, dtype=np.int32), "matrix": tensor(300, 300)}  # fmt: skip
    assert write_small(checkpoint, tmp_path / "small.safetensors") == 3
    with safe_open(str(tmp_path / "small.safetensors"), "pt") as file:
        assert sorted(file.keys()) == ["bias", "half", "norm"]
        assert str(file.get_tensor("norm").dtype) == "torch.bfloat16"

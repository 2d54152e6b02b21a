"""Linears packed by auto-gptq, autoawq and compressed-tensors themselves (written/write.py made the files)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from pipeline.checkpoint import QuantisedTensor, open_checkpoint

FILES = sorted((Path(__file__).parent / "written").glob("*.safetensors"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_weight_that_the_library_was_given_comes_back(path: Path, tmp_path: Path) -> None:
    with safe_open(path, "np") as file:
        config = json.loads(file.metadata()["config"])
        tensors = {name: file.get_tensor(name) for name in list(file.keys())}
    weight = tensors.pop("input")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "quantization_config": config}))
    save_file(tensors, tmp_path / "model.safetensors")
    checkpoint = open_checkpoint(tmp_path)
    assert list(checkpoint) == ["m.weight"]
    found = checkpoint["m.weight"]
    np.testing.assert_array_equal(found.read(), weight)
    np.testing.assert_array_equal(found.read(3, 19), weight[3:19])
    assert isinstance(found, QuantisedTensor)
    assert found.bits == int(next(letter for letter in path.stem if letter.isdigit()))
    assert found.symmetric == path.stem.endswith("-symmetric")
    codes, (scales, zeros) = found.read_codes(), found.read_scales()
    blocks = codes.reshape(*scales.shape, -1).astype(np.float32) - 2.0 ** (found.bits - 1)
    np.testing.assert_array_equal((blocks * scales[..., None] + zeros[..., None]).reshape(weight.shape), weight)


def test_every_library_is_there() -> None:
    assert {path.stem.split("-")[0].rstrip("0123456789") for path in FILES} == {"gptq", "awq", "compressed"}
    assert len(FILES) == 9

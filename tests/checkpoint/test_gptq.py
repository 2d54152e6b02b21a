"""GPTQ files, codes and scales unchanged: every width, group, version and symmetry, and what must be refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.checkpoint import QuantisedTensor, open_checkpoint
from pipeline.errors import StageFailed
from tests.checkpoint.quantised_files import Linear, gptq_tensors, random_linear, write_folder

NAME = "model.layers.0.self_attn.q_proj"


def folder(path: Path, tensors: dict[str, Any], **config: Any) -> Path:
    extra = {"model.norm.weight": np.ones(64, np.float16)}
    return write_folder(path, {**tensors, **extra}, {"quant_method": "gptq", "bits": 4, "group_size": 32, **config})


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(("bits", "group"), [(2, 32), (3, 32), (4, 32), (4, 128), (8, 64)])
def test_dequantised_source_is_exact(tmp_path: Path, bits: int, group: int, version: int, symmetric: bool) -> None:
    linear = random_linear(64, 128, bits, group, symmetric)
    kind = {"checkpoint_format": "gptq" if version == 1 else "gptq_v2", "bits": bits, "group_size": group}
    checkpoint = open_checkpoint(folder(tmp_path, gptq_tensors(NAME, linear, bits, version), **kind))
    assert sorted(checkpoint) == [f"{NAME}.weight", "model.norm.weight"]
    tensor = checkpoint[f"{NAME}.weight"]
    assert isinstance(tensor, QuantisedTensor)
    assert (tensor.shape, tensor.bits, tensor.block, tensor.dtype) == ((64, 128), bits, group, f"GPTQ{bits}")
    assert tensor.symmetric is symmetric
    np.testing.assert_array_equal(tensor.read(), linear.weight)
    np.testing.assert_array_equal(tensor.read(5, 40), linear.weight[5:40])


def test_codes_and_scales_are_those_of_the_file(tmp_path: Path) -> None:
    linear = random_linear(64, 128, 4, 32)
    tensor = open_checkpoint(folder(tmp_path, gptq_tensors(NAME, linear, 4)))[f"{NAME}.weight"]
    assert isinstance(tensor, QuantisedTensor)
    np.testing.assert_array_equal(tensor.read_codes(3, 9), linear.codes[3:9])
    scales, zeros = tensor.read_scales(3, 9)
    np.testing.assert_array_equal(scales, linear.scales[3:9].astype(np.float32))
    blocks = (linear.codes[3:9].reshape(6, 4, 32) - 8) * scales[..., None] + zeros[..., None]  # the engine's formula
    np.testing.assert_array_equal(blocks.astype(np.float32).reshape(6, 128), linear.weight[3:9])


def test_activation_order_has_values_and_no_lattice(tmp_path: Path) -> None:
    linear = random_linear(64, 128, 4, 32, act_order=True)
    tensor = open_checkpoint(folder(tmp_path, gptq_tensors(NAME, linear, 4), desc_act=True))[f"{NAME}.weight"]
    assert not isinstance(tensor, QuantisedTensor) and tensor.dtype == "GPTQ4_ACT_ORDER"
    np.testing.assert_array_equal(tensor.read(7, 21), linear.weight[7:21])


def test_without_g_idx(tmp_path: Path) -> None:
    linear = random_linear(64, 128, 4, 32)
    tensors = gptq_tensors(NAME, linear, 4)
    del tensors[f"{NAME}.g_idx"]
    np.testing.assert_array_equal(open_checkpoint(folder(tmp_path, tensors))[f"{NAME}.weight"].read(), linear.weight)


def test_widths_that_differ_by_module(tmp_path: Path) -> None:
    linears = {NAME: (random_linear(64, 128, 4, 32), 4), f"{NAME}2": (random_linear(32, 64, 8, 64, seed=1), 8)}
    tensors = {k: v for name, (linear, bits) in linears.items() for k, v in gptq_tensors(name, linear, bits).items()}
    checkpoint = open_checkpoint(folder(tmp_path, tensors, dynamic={"+:.*2": {"bits": 8, "group_size": 64}}))
    for name, (linear, bits) in linears.items():
        np.testing.assert_array_equal(checkpoint[f"{name}.weight"].read(), linear.weight)
        assert checkpoint[f"{name}.weight"].dtype == f"GPTQ{bits}"


def test_config_beside_the_model(tmp_path: Path) -> None:
    linear = random_linear(64, 128, 4, 32)
    path = write_folder(tmp_path, gptq_tensors(NAME, linear, 4), None)
    (path / "quantize_config.json").write_text('{"bits": 4, "group_size": 32, "desc_act": false}')
    np.testing.assert_array_equal(open_checkpoint(path)[f"{NAME}.weight"].read(), linear.weight)


def base_with_gptq(tmp_path: Path, linear: Linear, shape: tuple[int, int] = (64, 128), name: str = NAME) -> Path:
    """A base folder and, under gptq/, its quantised linears: what model.gptq_path gives."""
    norms = {"model.norm.weight": np.zeros(64, np.float32)}
    write_folder(
        tmp_path,
        {f"{NAME}.weight": np.zeros(shape, np.float32), "x.weight": np.ones((2, 2), np.float32), **norms},
        None,
    )
    folder(tmp_path / "gptq", gptq_tensors(name, linear, 4))
    return tmp_path


def test_beside_the_base(tmp_path: Path) -> None:
    linear = random_linear(64, 128, 4, 32)
    checkpoint = open_checkpoint(base_with_gptq(tmp_path, linear))
    np.testing.assert_array_equal(checkpoint[f"{NAME}.weight"].read(), linear.weight)
    assert checkpoint["x.weight"].read().tolist() == [[1, 1], [1, 1]]
    assert not checkpoint["model.norm.weight"].read().any(), "only quantised linears are taken from gptq_path"


def test_beside_another_base(tmp_path: Path) -> None:
    linear = random_linear(64, 128, 4, 32)
    with pytest.raises(StageFailed, match=r"is \[64, 128\] there and \[64, 64\] in the base"):
        open_checkpoint(base_with_gptq(tmp_path / "a", linear, (64, 64)))
    with pytest.raises(StageFailed, match="not in the base model"):
        open_checkpoint(base_with_gptq(tmp_path / "b", linear, name="model.layers.9.q_proj"))


@pytest.mark.parametrize(
    ("change", "config", "message"),
    [
        ({}, {"bits": 8}, "has 4 bits in groups of 32, the config says 8 in groups of 32"),
        ({}, {"group_size": 128}, "the config says 4 in groups of 128"),
        ({}, {"checkpoint_format": "marlin"}, "'marlin' is not read here"),
        ({"scales": None}, {}, "has no scales"),
        ({"qzeros": np.zeros((4, 9), np.int32)}, {}, "not a layout that is known"),
        ({"scales": np.ones((3, 64), np.float16)}, {}, "not a layout that is known"),
        ({"g_idx": np.full(128, 9, np.int32)}, {}, "points outside its 4 groups"),
    ],
)
def test_what_does_not_fit(tmp_path: Path, change: dict[str, Any], config: dict[str, Any], message: str) -> None:
    tensors = gptq_tensors(NAME, random_linear(64, 128, 4, 32), 4)
    tensors |= {f"{NAME}.{part}": value for part, value in change.items()}
    with pytest.raises(StageFailed, match=message) as caught:
        open_checkpoint(folder(tmp_path, {k: v for k, v in tensors.items() if v is not None}, **config))
    assert caught.value.next_step


def test_nothing_quantised(tmp_path: Path) -> None:
    with pytest.raises(StageFailed, match="no tensor is named qweight"):
        open_checkpoint(folder(tmp_path, {}))


def test_quantised_without_a_config(tmp_path: Path) -> None:
    path = write_folder(tmp_path, gptq_tensors(NAME, random_linear(64, 128, 4, 32), 4), None)
    with pytest.raises(StageFailed, match="no quantization_config"):
        open_checkpoint(path)

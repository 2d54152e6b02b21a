"""Independent writers of quantised checkpoints: what AutoGPTQ/GPTQModel, AutoAWQ and compressed-tensors put into files.

Written from the packing loops of those libraries (GPTQModel: BaseQuantLinear.pack_original; AutoAWQ:
WQLinear_GEMM.from_linear; compressed_tensors: pack_to_int32), element by element and slowly, on purpose.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

AWQ_ORDER = [0, 2, 4, 6, 1, 3, 5, 7]


@dataclass
class Linear:
    """codes: [out, in]; scales float16 and points: [out, groups]; groups: [in], each input's group."""

    codes: np.ndarray
    scales: np.ndarray
    points: np.ndarray
    groups: np.ndarray

    @property
    def weight(self) -> np.ndarray:
        """scale · (code − zero point), float32 [out, in], by the formula of all three libraries."""
        points, scales = self.points[:, self.groups], self.scales.astype(np.float32)[:, self.groups]
        return np.asarray((self.codes - points).astype(np.float32) * scales)


def random_linear(
    outputs: int, inputs: int, bits: int, group: int, symmetric: bool = False, act_order: bool = False, seed: int = 0
) -> Linear:
    """A lattice that uses every code and zero point that it may."""
    random = np.random.default_rng(seed)
    groups = np.arange(inputs) // group
    if act_order:
        groups = random.permutation(groups)
    count = inputs // group
    points = (
        np.full((outputs, count), 1 << (bits - 1)) if symmetric else random.integers(0, 1 << bits, (outputs, count))
    )
    scales = random.uniform(0.001, 0.1, (outputs, count)).astype(np.float16)
    return Linear(random.integers(0, 1 << bits, (outputs, inputs)), scales, points, groups)


def bit_stream(values: np.ndarray, bits: int) -> np.ndarray:
    """[n, m] of codes, packed along the first axis into int32 as one little-endian stream of bits per column."""
    stream = (values[:, None, :] >> np.arange(bits)[None, :, None]) & 1
    stream = stream.reshape(-1, 32, values.shape[1]).astype(np.uint64)
    return (stream << np.arange(32, dtype=np.uint64)[None, :, None]).sum(axis=1).astype(np.uint32).view(np.int32)


def gptq_tensors(name: str, linear: Linear, bits: int, version: int = 1) -> dict[str, np.ndarray]:
    """One module as GPTQ stores it; version 1 stores zero − 1, within the field's bits."""
    points = (linear.points - (version == 1)) & ((1 << bits) - 1)
    return {
        f"{name}.qweight": bit_stream(linear.codes.T, bits),
        f"{name}.qzeros": np.ascontiguousarray(bit_stream(points, bits).T),
        f"{name}.scales": np.ascontiguousarray(linear.scales.T),
        f"{name}.g_idx": linear.groups.astype(np.int32),
    }


def awq_tensors(name: str, linear: Linear) -> dict[str, np.ndarray]:
    """One module in AWQ's GEMM layout."""
    return {
        f"{name}.qweight": awq_words(linear.codes.T),
        f"{name}.qzeros": awq_words(linear.points.T),
        f"{name}.scales": np.ascontiguousarray(linear.scales.T),
    }


def awq_words(values: np.ndarray) -> np.ndarray:
    """[n, out] → int32 [n, out/8]: nibble i of a word is column AWQ_ORDER[i] of its eight."""
    words = np.zeros((len(values), values.shape[1] // 8), np.uint32)
    for column in range(words.shape[1]):
        for i in range(8):
            words[:, column] |= values[:, column * 8 + AWQ_ORDER[i]].astype(np.uint32) << np.uint32(4 * i)
    return words.view(np.int32)


def compressed_tensors(name: str, linear: Linear, bits: int, symmetric: bool) -> dict[str, np.ndarray]:
    """One module, pack-quantized; codes and zero points are kept plus 2^(bits−1), that is: unsigned as they are."""
    tensors = {
        f"{name}.weight_packed": np.ascontiguousarray(bit_stream(linear.codes.T, bits).T),
        f"{name}.weight_scale": linear.scales,
        f"{name}.weight_shape": np.array(linear.codes.shape, np.int64),
    }
    if not symmetric:
        tensors[f"{name}.weight_zero_point"] = bit_stream(linear.points, bits)
    if not np.array_equal(linear.groups, np.sort(linear.groups)):
        tensors[f"{name}.weight_g_idx"] = linear.groups.astype(np.int32)
    return tensors


def write_folder(folder: Path, tensors: dict[str, Any], quantisation: dict[str, Any] | None) -> Path:
    """A folder with these tensors and a config that says how they are quantised."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {"model_type": "llama", **({"quantization_config": quantisation} if quantisation else {})}
    (folder / "config.json").write_text(json.dumps(config))
    save_file(tensors, str(folder / "model.safetensors"))
    return folder

"""A tiny llama whose linears are quantised, written as the formats' own libraries write them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from tests.checkpoint.quantised_files import Linear, awq_tensors, compressed_tensors, gptq_tensors
from tests.verify.helpers import write_model

GROUP = 32
CONFIGS: dict[str, dict[str, Any]] = {
    "gptq": {"quant_method": "gptq", "bits": 4, "group_size": GROUP, "sym": False, "checkpoint_format": "gptq"},
    "gptq8": {"quant_method": "gptq", "bits": 8, "group_size": GROUP, "sym": True, "checkpoint_format": "gptq_v2"},
    "awq": {"quant_method": "awq", "bits": 4, "group_size": GROUP, "version": "gemm", "zero_point": True},
    "compressed-tensors": {
        "quant_method": "compressed-tensors", "format": "pack-quantized",
        "config_groups": {"group_0": {"weights": {"num_bits": 4, "group_size": GROUP, "symmetric": True,
                                                  "strategy": "group", "type": "int"}, "targets": ["Linear"]}},
    },
    "fp8": {"quant_method": "fp8", "weight_block_size": [16, 32]},
}  # fmt: skip


def quantised(weight: np.ndarray, bits: int, symmetric: bool) -> Linear:
    """Round to nearest by groups of inputs; scales float16."""
    rows, columns = weight.shape
    groups = np.arange(columns) // GROUP
    blocks = weight.reshape(rows, -1, GROUP)
    low, high = np.minimum(blocks.min(-1), 0), np.maximum(blocks.max(-1), 0)
    most = (1 << bits) - 1
    if symmetric:
        scales = (np.maximum(-low, high) / (1 << (bits - 1)) * 1.01).astype(np.float16)
        points = np.full(scales.shape, 1 << (bits - 1))
    else:
        scales = ((high - low) / most * 1.01).astype(np.float16)
        points = np.clip(np.round(-low / scales.astype(np.float32)), 0, most).astype(np.int64)
    codes = np.round(blocks / scales.astype(np.float32)[..., None]) + points[..., None]
    return Linear(np.clip(codes, 0, most).astype(np.int64).reshape(rows, columns), scales, points, groups)


def write_quantised(folder: Path, method: str, seed_model: Path | None = None) -> dict[str, np.ndarray]:
    """Writes a Hugging Face folder whose body is quantised by `method`; the weights that it means, by linear."""
    if seed_model is None:
        write_model(folder, num_hidden_layers=1)
    else:
        folder.mkdir()
        for path in [path for path in seed_model.iterdir() if path.is_file()]:
            (folder / path.name).write_bytes(path.read_bytes())
    tensors = load_file(folder / "model.safetensors")
    truth: dict[str, np.ndarray] = {}
    for name in [name for name in tensors if name.endswith("proj.weight")]:
        module = name.removesuffix(".weight")
        added, truth[module] = _stored(module, tensors.pop(name).float().numpy(), method)
        tensors |= added
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": CONFIGS[method]}))
    return truth


def _stored(module: str, weight: np.ndarray, method: str) -> tuple[dict[str, torch.Tensor], np.ndarray]:
    """A module's tensors in the file, and what they mean by the formula of the format."""
    if method == "fp8":
        return _fp8(module, weight)
    symmetric = method in ("gptq8", "compressed-tensors")
    bits = 8 if method == "gptq8" else 4
    linear = quantised(weight, bits, symmetric)
    if method == "awq":
        found = awq_tensors(module, linear)
    elif method == "compressed-tensors":
        found = compressed_tensors(module, linear, bits, symmetric)
    else:
        found = gptq_tensors(module, linear, bits, 2 if method == "gptq8" else 1)
    return {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in found.items()}, linear.weight


def _fp8(module: str, weight: np.ndarray) -> tuple[dict[str, torch.Tensor], np.ndarray]:
    """DeepSeek's layout: one float32 scale for 16 rows x 32 columns."""
    rows, columns = weight.shape
    blocks = torch.from_numpy(weight).reshape(rows // 16, 16, columns // 32, 32)
    scale = blocks.abs().amax((1, 3)) / 448
    eight = (blocks / scale[:, None, :, None]).to(torch.float8_e4m3fn)
    meant = (eight.float() * scale[:, None, :, None]).reshape(rows, columns)
    stored = {f"{module}.weight": eight.reshape(rows, columns), f"{module}.weight_scale_inv": scale}
    return stored, meant.numpy()

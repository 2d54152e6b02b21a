"""FP8 checkpoints: float8_e4m3 weights with scales by blocks of rows and columns (DeepSeek), by row, or one for all.

DeepSeek's fine-grained format: weight [out, in], weight_scale_inv float32 [⌈out/128⌉, ⌈in/128⌉]; w = weight · scale
(transformers: integrations/finegrained_fp8; the name says inverse, the value multiplies).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.checkpoint.tensor import Array, FileTensor, LazyTensor, to_float32
from pipeline.errors import StageFailed

# Scales of activations: they change no weight.
ACTIVATIONS = ("activation_scale", "input_scale", "k_scale", "v_scale")


@dataclass(frozen=True)
class Fp8Tensor:
    """weight: F8_E4M3 [out, in]. scale: [⌈out/rows⌉, ⌈in/columns⌉] for block = (rows, columns), [out], or one value."""

    weight: FileTensor
    scale: FileTensor
    block: tuple[int, int]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.weight.shape

    @property
    def dtype(self) -> str:
        return self.weight.dtype

    def read(self, start: int = 0, stop: int | None = None) -> Array:
        """Rows [start, stop) as float32."""
        first, last, _ = slice(start, stop).indices(self.shape[0])
        values = to_float32(self.weight.read(start, stop))
        scale = to_float32(self.scale.read())
        if scale.size == 1:
            return np.asarray(values * scale.reshape(-1)[0], np.float32)
        by_row = scale.reshape(len(scale), -1)[np.arange(first, max(first, last)) // self.block[0]]
        return np.asarray(values * by_row[:, np.arange(self.shape[1]) // self.block[1]], np.float32)


def open_fp8(raw: Mapping[str, FileTensor], config: Mapping[str, Any]) -> dict[str, LazyTensor]:
    """The file's tensors with every FP8 linear dequantised. StageFailed for a weight without a fitting scale."""
    block = config.get("weight_block_size")
    tensors: dict[str, LazyTensor] = {}
    for name, tensor in raw.items():
        last = name.split(".")[-1]
        if last in ("weight_scale_inv", "weight_scale", *ACTIVATIONS):
            continue
        tensors[name] = tensor if not tensor.dtype.startswith("F8") else _scaled(raw, name, tensor, block)
    if all(isinstance(tensor, FileTensor) for tensor in tensors.values()):
        raise StageFailed("the config says FP8, and no tensor is of that type", "check the folder")
    return tensors


def _scaled(raw: Mapping[str, FileTensor], name: str, tensor: FileTensor, block: Any) -> Fp8Tensor:
    scale = raw.get(f"{name}_scale_inv") or raw.get(f"{name}_scale")
    if scale is None:
        raise StageFailed(f"{name} is {tensor.dtype} and has no scale beside it", "download the checkpoint again")
    rows, columns = tensor.shape
    if int(np.prod(scale.shape)) == 1:
        return Fp8Tensor(tensor, scale, (rows, columns))
    if not block:
        if scale.shape[0] != rows or int(np.prod(scale.shape)) != rows:
            raise StageFailed(f"{name} has scales {list(scale.shape)}, and the config no weight_block_size", "check it")
        return Fp8Tensor(tensor, scale, (1, columns))
    size = (int(block[0]), int(block[1]))
    if scale.shape != (-(-rows // size[0]), -(-columns // size[1])):
        raise StageFailed(
            f"{name} {[rows, columns]} has scales {list(scale.shape)} for blocks of {list(size)}", "check it"
        )
    return Fp8Tensor(tensor, scale, size)

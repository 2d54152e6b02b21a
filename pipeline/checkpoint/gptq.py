"""GPTQ checkpoints (AutoGPTQ, GPTQModel): codes and scales as they are stored, in the engine's convention.

Per linear: qweight int32 [in·bits/32, out], packed along the inputs; qzeros int32 [groups, out·bits/32], packed along
the outputs; scales [groups, out]; g_idx int32 [in]. w = scale·(code − zero). Format v1 stores zero − 1, v2 the zero
itself (GPTQModel: convert_gptq_v1_to_v2_format).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.checkpoint.bitpack import unpack
from pipeline.checkpoint.lattice import F32, U8, LatticeTensor, ScatteredTensor, in_order
from pipeline.checkpoint.tensor import Checkpoint, FileTensor, LazyTensor, to_float32
from pipeline.errors import StageFailed

BITS = (2, 3, 4, 8)
FORMATS = {"gptq": 1, "gptq_v2": 0}
PARTS = ("qweight", "qzeros", "scales", "g_idx")


@dataclass(frozen=True, eq=False)
class GptqTensor(LatticeTensor):
    """One linear. zero_shift: 1 for format v1."""

    qweight: FileTensor
    qzeros: FileTensor
    scales: FileTensor
    shape: tuple[int, ...]
    bits: int
    block: int
    zero_shift: int

    @property
    def dtype(self) -> str:  # type: ignore[override]
        return f"GPTQ{self.bits}"

    def read_codes(self, start: int = 0, stop: int | None = None) -> U8:
        first, last = self.rows(start, stop)
        return np.ascontiguousarray(unpack(self.qweight.read_columns(first, last), self.bits).T)

    def read_scales(self, start: int = 0, stop: int | None = None) -> tuple[F32, F32]:
        first, last = self.rows(start, stop)
        scales = np.ascontiguousarray(to_float32(self.scales.read_columns(first, last)).T)
        stored = unpack(self.qzeros.read().T, self.bits)[first:last]
        # A v1 file wraps: the zero point 0 was written as the greatest code.
        points = (stored.astype(np.int32) + self.zero_shift) & ((1 << self.bits) - 1)
        half = np.float32(1 << (self.bits - 1))
        return scales, scales * (half - points.astype(np.float32))


def open_gptq(raw: Mapping[str, FileTensor], config: Mapping[str, Any]) -> dict[str, LazyTensor]:
    """The file's tensors with every quantised linear as one `.weight`. config: its quantization_config.

    Raises StageFailed for a format, a width or shapes that are not GPTQ's.
    """
    layout = str(config.get("checkpoint_format") or "gptq")
    if layout not in FORMATS:
        raise StageFailed(f"GPTQ checkpoint format {layout!r} is not read here", f"save it as {' or '.join(FORMATS)}")
    modules = [name.removesuffix(".qweight") for name in raw if name.endswith(".qweight")]
    if not modules:
        raise StageFailed("the config says GPTQ, and no tensor is named qweight", "check the folder")
    taken = {f"{module}.{part}" for module in modules for part in PARTS}
    tensors: dict[str, LazyTensor] = {name: tensor for name, tensor in raw.items() if name not in taken}
    for module in modules:
        tensors[f"{module}.weight"] = _linear(raw, module, config, FORMATS[layout])
    return tensors


def overlay_gptq(base: Checkpoint, quantised: Checkpoint) -> dict[str, LazyTensor]:
    """`base` with the quantised linears of another folder in their places (model.gptq_path).

    Raises StageFailed unless each of them is a tensor of the base, of the same shape.
    """
    found = {name: tensor for name, tensor in quantised.items() if tensor.dtype.startswith("GPTQ")}
    for name, tensor in found.items():
        if name not in base:
            raise StageFailed(f"gptq_path: {name} is not in the base model", "use the GPTQ version of this very model")
        if tensor.shape != base[name].shape:
            raise StageFailed(
                f"gptq_path: {name} is {list(tensor.shape)} there and {list(base[name].shape)} in the base model",
                "use the GPTQ version of this very model",
            )
    return {**base, **found}


def _linear(raw: Mapping[str, FileTensor], module: str, config: Mapping[str, Any], zero_shift: int) -> LazyTensor:
    parts = {part: raw.get(f"{module}.{part}") for part in PARTS}
    qweight, qzeros, scales, g_idx = parts.values()
    if qweight is None or qzeros is None or scales is None:
        missing = [part for part in PARTS[:3] if parts[part] is None]
        raise StageFailed(f"GPTQ: {module} has no {missing[0]}", "download the checkpoint again")
    groups, outputs = scales.shape
    inputs = g_idx.shape[0] if g_idx is not None else qweight.shape[0] * 32 // int(config.get("bits", 4))
    bits = qweight.shape[0] * 32 // inputs
    fits = qweight.shape == (inputs * bits // 32, outputs) and qzeros.shape == (groups, outputs * bits // 32)
    if bits not in BITS or not fits or inputs % groups:
        shapes = ", ".join(f"{part} {list(tensor.shape)}" for part, tensor in parts.items() if tensor is not None)
        raise StageFailed(
            f"GPTQ: {module} has {shapes} for {inputs} inputs: not a layout that is known",
            f"{', '.join(map(str, BITS))} bits with groups that divide the inputs are read here",
        )
    _check_declared(config, module, bits, inputs // groups, inputs)
    tensor = GptqTensor(qweight, qzeros, scales, (outputs, inputs), bits, inputs // groups, zero_shift)
    if g_idx is None:
        return tensor
    order = g_idx.read().astype(np.int64)
    if order.min() < 0 or order.max() >= groups:
        raise StageFailed(f"GPTQ: g_idx of {module} points outside its {groups} groups", "download it again")
    return tensor if in_order(order, tensor.block) else ScatteredTensor(tensor, order)


def _check_declared(config: Mapping[str, Any], module: str, bits: int, block: int, inputs: int) -> None:
    """What the file holds is what its config says; GPTQModel's `dynamic` rules may differ by module."""
    if config.get("dynamic"):
        return
    declared = int(config.get("bits", bits))
    group = int(config.get("group_size", block))
    if bits != declared or block != (inputs if group == -1 else group):
        raise StageFailed(
            f"GPTQ: {module} has {bits} bits in groups of {block}, the config says {declared} in groups of {group}",
            "the config and the weights do not belong together",
        )

"""compressed-tensors checkpoints: pack-quantized (int4, int8), int-quantized and float-quantized (fp8) weights.

Per linear, pack-quantized: weight_packed int32 [out, in·bits/32], the signed code plus 2^(bits−1), low bits first;
weight_scale [out, groups]; weight_shape [2]; weight_zero_point int32 [out·bits/32, groups] when asymmetric (packed
alike); weight_g_idx with activation order. int- and float-quantized: weight int8 or fp8 [out, in], weight_scale
[out, groups], [out, 1] or [1]; a zero point of the weight's own type (compressed_tensors: PackedQuantizationCompressor,
NaiveQuantizationCompressor).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.checkpoint.bitpack import unpack
from pipeline.checkpoint.fp8 import Fp8Tensor
from pipeline.checkpoint.lattice import F32, U8, LatticeTensor, ScatteredTensor, in_order
from pipeline.checkpoint.tensor import FileTensor, LazyTensor, to_float32
from pipeline.errors import StageFailed

FORMATS = ("pack-quantized", "int-quantized", "float-quantized", "naive-quantized", "mixed-precision")
PARTS = ("weight_packed", "weight_scale", "weight_shape", "weight_zero_point", "weight_g_idx", "weight")
# Scales of activations and of the key/value cache: they change no weight.
ACTIVATIONS = ("input_scale", "output_scale", "input_zero_point", "output_zero_point", "k_scale", "v_scale",
               "input_global_scale")  # fmt: skip


@dataclass(frozen=True, eq=False)
class PackedTensor(LatticeTensor):
    """int4 or int8 codes, packed or (bits 8) plain. scale: [out, groups] or one for all."""

    codes: FileTensor
    scale: FileTensor
    zero_point: FileTensor | None
    shape: tuple[int, ...]
    bits: int
    block: int

    @property
    def dtype(self) -> str:  # type: ignore[override]
        return f"CT_INT{self.bits}"

    def read_codes(self, start: int = 0, stop: int | None = None) -> U8:
        first, last = self.rows(start, stop)
        stored = self.codes.read(first, last)
        if self.codes.dtype == "I8":
            return np.ascontiguousarray(stored).view(np.uint8) ^ np.uint8(128)
        return np.ascontiguousarray(unpack(stored.T, self.bits).T[:, : self.shape[1]])

    def read_scales(self, start: int = 0, stop: int | None = None) -> tuple[F32, F32]:
        first, last = self.rows(start, stop)
        scales = row_scales(self.scale, first, last)
        if self.zero_point is None:
            return scales, np.zeros_like(scales)
        return scales, np.asarray(scales * -self._points(first, last), np.float32)

    def _points(self, first: int, last: int) -> F32:
        """Signed zero points of rows [first, last), float32 [rows, groups]."""
        assert self.zero_point is not None
        if self.zero_point.dtype == "I32" and self.codes.dtype == "I32":
            unsigned = unpack(self.zero_point.read(), self.bits)[first:last]
            return unsigned.astype(np.float32) - np.float32(1 << (self.bits - 1))
        return row_scales(self.zero_point, first, last)


def open_compressed(raw: Mapping[str, FileTensor], config: Mapping[str, Any]) -> dict[str, LazyTensor]:
    """The file's tensors with every quantised linear as one `.weight`. StageFailed for formats that are not read."""
    kind = str(config.get("format"))
    if kind not in FORMATS:
        raise StageFailed(f"compressed-tensors format {kind!r} is not read here", f"{', '.join(FORMATS[:3])} are")
    modules = [name.removesuffix(".weight_scale") for name in raw if name.endswith(".weight_scale")]
    if not modules:
        raise StageFailed("the config says compressed-tensors, and no tensor has a weight_scale", "check the folder")
    taken = {f"{module}.{part}" for module in modules for part in PARTS}
    tensors: dict[str, LazyTensor] = {
        name: tensor for name, tensor in raw.items() if name not in taken and name.split(".")[-1] not in ACTIVATIONS
    }
    for module in modules:
        tensors[f"{module}.weight"] = _linear(raw, module, config)
    return tensors


def row_scales(tensor: FileTensor, first: int, last: int) -> F32:
    """Rows [first, last) of [out, groups] values, or of one value for all rows, float32 [rows, groups]."""
    if int(np.prod(tensor.shape)) == 1:
        return np.full((last - first, 1), to_float32(tensor.read()).reshape(-1)[0], np.float32)
    return to_float32(tensor.read(first, last)).reshape(last - first, -1)


def _linear(raw: Mapping[str, FileTensor], module: str, config: Mapping[str, Any]) -> LazyTensor:
    scale = raw[f"{module}.weight_scale"]
    packed, plain = raw.get(f"{module}.weight_packed"), raw.get(f"{module}.weight")
    zero_point = raw.get(f"{module}.weight_zero_point")
    if packed is not None:
        outputs, inputs = (int(axis) for axis in raw[f"{module}.weight_shape"].read())
        bits = packed.shape[1] * 32 // inputs
        if bits not in (4, 8) or packed.shape != (outputs, -(-inputs * bits // 32)):
            raise StageFailed(f"compressed-tensors: {module} is packed as {list(packed.shape)} for {[outputs, inputs]}",
                              "4 and 8 bits are read here")  # fmt: skip
        codes = packed
    elif plain is not None and plain.dtype == "I8":
        codes, bits, (outputs, inputs) = plain, 8, plain.shape
    elif plain is not None and plain.dtype == "F8_E4M3":
        return Fp8Tensor(plain, scale, (1, plain.shape[1] // _groups(scale, plain.shape[0], module)))
    else:
        raise StageFailed(f"compressed-tensors: {module} has a scale and no int4, int8 or fp8 weight", "check the file")
    groups = _groups(scale, outputs, module)
    if inputs % groups:
        raise StageFailed(f"compressed-tensors: {groups} groups do not divide the {inputs} inputs of {module}", "")
    tensor = PackedTensor(codes, scale, zero_point, (outputs, inputs), bits, inputs // groups)
    order = raw.get(f"{module}.weight_g_idx")
    if order is None:
        return tensor
    numbers = order.read().astype(np.int64)
    return tensor if in_order(numbers, tensor.block) else ScatteredTensor(tensor, numbers)


def _groups(scale: FileTensor, outputs: int, module: str) -> int:
    count = int(np.prod(scale.shape))
    if count == 1:
        return 1
    if scale.shape[0] != outputs or len(scale.shape) > 2:
        raise StageFailed(f"compressed-tensors: {module} has scales {list(scale.shape)} for {outputs} rows", "check it")
    return count // outputs

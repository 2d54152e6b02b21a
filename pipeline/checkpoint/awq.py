"""AWQ checkpoints in the GEMM layout (AutoAWQ: WQLinear_GEMM).

Per linear: qweight int32 [in, out/8] and qzeros int32 [groups, out/8], eight 4-bit columns to a word in the order
0 2 4 6 1 3 5 7 from the lowest bits; scales float16 [groups, out]. w = scale·(code − zero).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.checkpoint.lattice import F32, U8, LatticeTensor
from pipeline.checkpoint.tensor import FileTensor, LazyTensor, to_float32
from pipeline.errors import StageFailed

PER_WORD = 8
# Where in the word each of eight columns is, counted in nibbles from the lowest.
PLACE = np.array([0, 4, 1, 5, 2, 6, 3, 7], np.uint32)
PARTS = ("qweight", "qzeros", "scales")


@dataclass(frozen=True, eq=False)
class AwqTensor(LatticeTensor):
    """One linear, 4 bits."""

    qweight: FileTensor
    qzeros: FileTensor
    scales: FileTensor
    shape: tuple[int, ...]
    block: int
    bits: int = 4
    dtype: str = "AWQ4"

    def read_codes(self, start: int = 0, stop: int | None = None) -> U8:
        first, last = self.rows(start, stop)
        return np.ascontiguousarray(_columns(self.qweight, first, last).T)

    def read_scales(self, start: int = 0, stop: int | None = None) -> tuple[F32, F32]:
        first, last = self.rows(start, stop)
        scales = np.ascontiguousarray(to_float32(self.scales.read_columns(first, last)).T)
        points = _columns(self.qzeros, first, last).T.astype(np.float32)
        return scales, np.asarray(scales * (np.float32(8) - points), np.float32)


def open_awq(raw: Mapping[str, FileTensor], config: Mapping[str, Any]) -> dict[str, LazyTensor]:
    """The file's tensors with every quantised linear as one `.weight`. StageFailed for other layouts than GEMM."""
    version, bits = str(config.get("version", "gemm")).lower(), int(config.get("bits", 4))
    if version != "gemm" or bits != 4:
        raise StageFailed(f"AWQ {version} with {bits} bits is not read here", "the GEMM layout with 4 bits is")
    modules = [name.removesuffix(".qweight") for name in raw if name.endswith(".qweight")]
    if not modules:
        raise StageFailed("the config says AWQ, and no tensor is quantised (none is named qweight)", "check the folder")
    taken = {f"{module}.{part}" for module in modules for part in PARTS}
    tensors: dict[str, LazyTensor] = {name: tensor for name, tensor in raw.items() if name not in taken}
    for module in modules:
        tensors[f"{module}.weight"] = _linear(raw, module, config)
    return tensors


def _linear(raw: Mapping[str, FileTensor], module: str, config: Mapping[str, Any]) -> AwqTensor:
    parts = [raw.get(f"{module}.{part}") for part in PARTS]
    qweight, qzeros, scales = parts
    if qweight is None or qzeros is None or scales is None:
        raise StageFailed(f"AWQ: {module} has no {PARTS[parts.index(None)]}", "download the checkpoint again")
    inputs, outputs = qweight.shape[0], qweight.shape[1] * PER_WORD
    groups = scales.shape[0]
    fits = scales.shape == (groups, outputs) and qzeros.shape == (groups, qweight.shape[1]) and inputs % groups == 0
    block = inputs // max(1, groups)
    declared = int(config.get("group_size", block))
    if not fits or block != (inputs if declared == -1 else declared):
        raise StageFailed(
            f"AWQ: {module} has qweight {list(qweight.shape)}, qzeros {list(qzeros.shape)}, scales {list(scales.shape)}"
            f" for groups of {declared}",
            "the config and the weights do not belong together",
        )
    return AwqTensor(qweight, qzeros, scales, (outputs, inputs), block)


def _columns(tensor: FileTensor, first: int, last: int) -> npt.NDArray[np.uint8]:
    """Columns [first, last) of a packed matrix, uint8 [rows, last − first]; whole words are read."""
    low, high = first // PER_WORD, -(-last // PER_WORD)
    words = tensor.read_columns(low, high).view(np.uint32)
    nibbles = (words[:, :, None] >> (4 * PLACE)[None, None, :]) & np.uint32(15)
    flat = nibbles.astype(np.uint8).reshape(len(words), -1)
    return flat[:, first - low * PER_WORD : last - low * PER_WORD]

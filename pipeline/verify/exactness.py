"""Codes and scales that were taken over from the source (`quant=source`): read back from the finished files.

What the engine will compute from `llm.mnn` and `llm.mnn.weight` is computed here a second time, by a reader that shares
nothing with the writer, and compared with the source's own dequantised values, weight by weight.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.checkpoint.tensor import Checkpoint, to_float32
from pipeline.errors import StageFailed
from pipeline.weights.layout import Layout, Linear
from pipeline.weights.parts import read_rows

F32 = npt.NDArray[np.float32]
PIECE = 1 << 22  # weights that are compared at a time
# How far a weight may be off, as a share of its block's largest possible value. Q4_1 and Q5_1 state another zero than
# the engine (the smallest code's, not the middle one's), and the sum is rounded to float32 once.
LIMITS = {"exact": 0.0, "float32 rounding": 2.0**-22, "float16 scales, as asked": 2.0**-9}
ANOTHER_ZERO = ("Q4_1", "Q5_1")


@dataclass(frozen=True)
class Stored:
    """Where and how the engine finds a quantised matrix, from its operator in llm.mnn.json.

    Format: header (u8 dims, u16 or u32 each, u8 number of codes, the codes as int8), unsigned codes as one bit stream,
    most significant bit first; then (zero, scale) or scale by block; MNN 3.6.1, ConvolutionCommon.cpp.
    """

    offset: int
    weight_bytes: int
    alpha_bytes: int
    rows: int
    columns: int
    bits: int
    symmetric: bool
    half_scales: bool
    wide_shape: bool

    @classmethod
    def of(cls, operator: Mapping[str, Any]) -> Stored:
        """From a Convolution; StageFailed for one that holds no codes."""
        main = operator["main"]
        common, quant, external = main["common"], main.get("quanParameter") or {}, main.get("external") or []
        if quant.get("type") != 1 or len(external) < 3:
            raise StageFailed(f"{operator['name']} should hold the source's codes, and is stored otherwise")
        offset, weight_bytes, alpha_bytes = (int(number) for number in external[:3])
        return cls(
            offset=offset,
            weight_bytes=weight_bytes,
            alpha_bytes=alpha_bytes,
            rows=int(common["outputCount"]),
            columns=int(common["inputCount"]),
            bits=int(quant["aMaxOrBits"]),
            symmetric=int(quant.get("readType", 0)) == 0,
            half_scales=quant.get("scaleStorage") == "FP16",
            wide_shape=bool(quant.get("shapeInt32")),
        )

    @property
    def header(self) -> int:
        return 2 + (8 if self.wide_shape else 4) + (1 << self.bits)

    @property
    def blocks(self) -> int:
        """Scales of a row. StageFailed if the bytes of the scales are no whole number of them."""
        size = (2 if self.half_scales else 4) * (1 if self.symmetric else 2) * self.rows
        blocks, rest = divmod(self.alpha_bytes, size)
        if rest or not blocks or self.columns % blocks:
            raise StageFailed(
                f"{self.alpha_bytes} bytes of scales are no whole number for {self.rows} rows of "
                f"{'float16' if self.half_scales else 'float32'}"
            )
        return blocks


def read_stored(descriptor: int, stored: Stored, start: int, stop: int) -> tuple[F32, F32]:
    """(weights [rows, in], the largest value that their blocks can have [rows, in]) as the engine dequantises them."""
    width, bits = stored.columns, stored.bits
    head = os.pread(descriptor, stored.header, stored.offset)
    table = np.frombuffer(head, np.int8, 1 << bits, stored.header - (1 << bits)).astype(np.float32)
    first, last = start * width * bits, stop * width * bits  # in bits; rows are cut where bytes are whole
    data = os.pread(descriptor, (last - first + 7) // 8, stored.offset + stored.header + first // 8)
    stream = np.unpackbits(np.frombuffer(data, np.uint8))[: last - first].reshape(-1, bits)
    codes = stream @ (1 << np.arange(bits - 1, -1, -1)).astype(np.int64)
    kind, count = np.dtype("<f2" if stored.half_scales else "<f4"), stored.blocks * (1 if stored.symmetric else 2)
    place = stored.offset + stored.weight_bytes + start * count * kind.itemsize
    alpha = np.frombuffer(os.pread(descriptor, (stop - start) * count * kind.itemsize, place), kind).astype(np.float32)
    alpha = alpha.reshape(stop - start, stored.blocks, -1)
    scale, zero = alpha[..., -1:], (np.zeros_like(alpha[..., :1]) if stored.symmetric else alpha[..., :1])
    blocks = table[codes].reshape(stop - start, stored.blocks, -1)
    largest = np.broadcast_to(np.abs(scale) * np.float32(1 << (bits - 1)) + np.abs(zero), blocks.shape)
    return (blocks * scale + zero).reshape(stop - start, width), largest.reshape(stop - start, width)


def check_linear(
    descriptor: int, operator: Mapping[str, Any], linear: Linear, checkpoint: Checkpoint, rounded: bool
) -> str:
    """How the stored matrix agrees with the source's, a key of LIMITS. rounded: the recipe asks for float16 scales.

    Raises StageFailed, naming linear and weight, when it does not agree as it should.
    """
    stored = Stored.of(operator)
    try:
        off, place = _worst(descriptor, stored, linear, checkpoint)
    except StageFailed as error:
        raise StageFailed(f"{linear.name}: {error.message}") from error
    types = {checkpoint[part.tensor].dtype for part in linear.parts}
    allowed = ["exact"]
    allowed += ["float32 rounding"] if types & set(ANOTHER_ZERO) else []
    allowed += ["float16 scales, as asked"] if rounded else []
    found = next((name for name in allowed if off <= LIMITS[name]), "")
    if not found:
        raise StageFailed(
            f"{linear.name} does not hold the source's weights: row {place[0]}, input {place[1]} is off by {off:.3g} "
            "of what its block can hold",
            "the weight file and llm.mnn do not belong together",
        )
    return found


def _worst(descriptor: int, stored: Stored, linear: Linear, checkpoint: Checkpoint) -> tuple[float, tuple[int, int]]:
    """(the largest error as a share of its block's range, its place)."""
    worst, place = 0.0, (0, 0)
    for start, stop in _pieces(stored):
        found, largest = read_stored(descriptor, stored, start, stop)
        expected = to_float32(read_rows(linear.parts, checkpoint, start, stop))
        off = np.abs(found - expected)
        share = np.divide(off, largest, out=np.where(off > 0, np.inf, 0.0), where=largest > 0)
        at = int(np.nanargmax(np.where(np.isnan(share), np.inf, share)))
        value = float(share.flat[at])
        if not value <= worst:
            worst, place = value, (start + at // stored.columns, at % stored.columns)
    return worst, place


def _pieces(stored: Stored) -> Iterator[tuple[int, int]]:
    """Runs of rows, multiples of eight so that their codes begin on whole bytes."""
    step = max(8, PIECE // stored.columns // 8 * 8)
    for start in range(0, stored.rows, step):
        yield start, min(start + step, stored.rows)


def operators(net: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The convolutions of llm.mnn.json, experts' among them, by name."""
    nodes = [*net["oplists"], *(node for graph in net.get("subgraphs") or [] for node in graph["nodes"])]
    return {str(node["name"]): node for node in nodes if node.get("main_type") == "Convolution2D"}


def check_all(
    weight_file: str | os.PathLike[str],
    net: Mapping[str, Any],
    weights: Mapping[str, Any],
    layout: Layout,
    checkpoint: Checkpoint,
    rounded: bool,
) -> dict[str, dict[str, str]]:
    """Linear → {"source": types of its tensors, "stored": how it agrees, or "fp16", or "quantised anew"}."""
    found, told = operators(net), {}
    descriptor = os.open(weight_file, os.O_RDONLY)
    try:
        for linear in layout.linears:
            algorithm = weights["linears"][linear.name]["algorithm"]
            types = ", ".join(sorted({checkpoint[part.tensor].dtype for part in linear.parts}))
            if algorithm != "source":
                stored = "fp16" if algorithm == "fp16" else "quantised anew"
            else:
                stored = check_linear(descriptor, found[linear.name], linear, checkpoint, rounded)
            told[linear.name] = {"source": types, "stored": stored}
    finally:
        os.close(descriptor)
    return told

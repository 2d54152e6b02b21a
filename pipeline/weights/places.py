"""Where every linear and table of a layout lies in the weight file: known from shapes and precisions, before any weight
is read, so that the graph can be linked while the weights are being written.

Arithmetic alone, no numpy: a stage that decides this runs in the process of the build itself.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.weights import sizes
from pipeline.weights.layout import Layout, Linear, Table
from pipeline.weights.precision import FP16, Precision

PLACES = "places.json"
U16_MAX = 0xFFFF


@dataclass(frozen=True)
class Placement:
    """Where a linear lies in the file: byte offset and the sizes of its runs."""

    linear: Linear
    precision: Precision
    offset: int

    @property
    def header(self) -> bytes:
        """The bytes before the codes (MNN 3.6.1, ConvolutionCommon.cpp, IDSTDecoder), none for fp16: u8 2, out and in
        as u16 (u32 if either is above 65,535), u8 2^bits (0 for 256), the signed codes as int8 list."""
        bits = self.precision.bits
        if bits == FP16:
            return b""
        half = 1 << (bits - 1)
        shape = struct.pack(
            "<BII" if self.shape_int32 else "<BHH", 2, self.linear.out_features, self.linear.in_features
        )
        return shape + bytes([(2 * half) & 0xFF]) + bytes(code & 0xFF for code in range(-half, half))

    @property
    def shape_int32(self) -> bool:
        """Whether the header has a shape and needs 32-bit numbers for it."""
        return self.precision.bits != FP16 and max(self.linear.out_features, self.linear.in_features) > U16_MAX

    @property
    def weight_bytes(self) -> int:
        """Header and codes."""
        weights = self.linear.out_features * self.linear.in_features
        return len(self.header) + sizes.code_bytes(weights, self.precision.bits)

    @property
    def alpha_bytes(self) -> int:
        """Scales and zeros."""
        return sizes.alpha_bytes(self.linear.out_features, self.linear.in_features, self.precision)

    @property
    def bias_bytes(self) -> int:
        """float32, whatever the linear's precision."""
        return 4 * self.linear.out_features if self.linear.bias else 0

    @property
    def end(self) -> int:
        """The first byte after it."""
        return self.offset + self.weight_bytes + self.alpha_bytes + self.bias_bytes

    def entry(self) -> dict[str, Any]:
        """What places.json says of it, and weights.json besides the errors (docs/architecture.md)."""
        precision = self.precision
        return {
            "external": [self.offset, self.weight_bytes, self.alpha_bytes, self.bias_bytes, 0],
            "header_bytes": len(self.header),
            "bits": precision.bits,
            "block": precision.block,
            "symmetric": precision.symmetric,
            "scale_bits": precision.scale_bits,
            "shape_int32": self.shape_int32,
            "a_min": 0 if precision.symmetric else 1,
            "out_features": self.linear.out_features,
            "in_features": self.linear.in_features,
            "algorithm": "fp16" if precision.bits == FP16 else precision.algorithm,
        }


def place(layout: Layout, precisions: Mapping[str, Precision]) -> list[Placement]:
    """The linears one after the other, in the layout's order."""
    placements: list[Placement] = []
    offset = 0
    for linear in layout.linears:
        placements.append(Placement(linear, precisions[linear.name], offset))
        offset = placements[-1].end
    return placements


def place_tables(tables: tuple[Table, ...], placements: list[Placement]) -> tuple[list[tuple[Table, int]], int]:
    """The float32 tables and their byte offsets, one after the other behind the linears; and the file's size."""
    offset = placements[-1].end if placements else 0
    placed = []
    for table in tables:
        placed.append((table, offset))
        offset += table_bytes(table)
    return placed, offset


def table_bytes(table: Table) -> int:
    """Bytes of a table in float32."""
    return 4 * table.rows * table.columns


def table_entry(table: Table, offset: int) -> dict[str, Any]:
    """What places.json and weights.json say of a table."""
    return {"external": [offset, table_bytes(table)]}


def places(layout: Layout, precisions: Mapping[str, Precision]) -> dict[str, Any]:
    """The content of places.json: the entries of all linears and tables by name, and the file's size in bytes."""
    placements = place(layout, precisions)
    tables, end = place_tables(layout.tables, placements)
    return {
        "linears": {one.linear.name: one.entry() for one in placements},
        "tables": {table.name: table_entry(table, offset) for table, offset in tables},
        "bytes": end,
    }


def load_precisions(path: Path) -> dict[str, Precision]:
    """The precision of every linear by its name, out of a places.json."""
    entries = json.loads(path.read_text(encoding="utf-8"))["linears"]
    return {name: _precision(entry) for name, entry in entries.items()}


def _precision(entry: Mapping[str, Any]) -> Precision:
    if entry["bits"] == FP16:
        return Precision(FP16)
    return Precision(entry["bits"], entry["block"], entry["symmetric"], entry["scale_bits"], entry["algorithm"])

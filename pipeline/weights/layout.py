"""layout.json, as the graph stage writes it (docs/architecture.md): what the weight file must hold, in order."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Part:
    """A run of rows of one checkpoint tensor; `read` in parts.py says in which order the fields apply."""

    tensor: str
    rows: tuple[int, int] | None = None
    index: int | None = None
    transpose: bool = False
    deinterleave: tuple[int, int, int] | None = None
    scale: float = 1.0

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> Part:
        """A PART of layout.json; absent fields have their neutral value."""
        rows, rope = fields.get("rows"), fields.get("deinterleave")
        return cls(
            tensor=fields["tensor"],
            rows=(rows[0], rows[1]) if rows else None,
            index=fields.get("index"),
            transpose=bool(fields.get("transpose")),
            deinterleave=(rope[0], rope[1], rope[2]) if rope else None,
            scale=float(fields.get("scale", 1.0)),
        )


@dataclass(frozen=True)
class Linear:
    """A weight matrix [out_features, in_features] and its bias [out_features], both concatenated from parts."""

    name: str
    out_features: int
    in_features: int
    parts: tuple[Part, ...]
    bias: tuple[Part, ...] = ()
    layer: int | None = None
    keep: bool = False


@dataclass(frozen=True)
class Table:
    """A lookup table [rows, columns] that the graph reads in float32."""

    name: str
    rows: int
    columns: int
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Layout:
    """The part of layout.json that the weight file depends on."""

    linears: tuple[Linear, ...]
    tables: tuple[Table, ...] = ()
    lm_head: str = "lm_head"
    tied: bool = False


def load_layout(path: Path) -> Layout:
    """Read `path`; missing keys raise KeyError, for the file is ours and not a person's."""
    document = json.loads(path.read_text(encoding="utf-8"))
    return Layout(
        linears=tuple(_linear(fields) for fields in document["linears"]),
        tables=tuple(_table(fields) for fields in document.get("tables", [])),
        lm_head=document["lm_head"],
        tied=bool(document["tied"]),
    )


def _parts(fields: list[Mapping[str, Any]] | None) -> tuple[Part, ...]:
    return tuple(Part.of(part) for part in fields or [])


def _linear(fields: Mapping[str, Any]) -> Linear:
    return Linear(
        name=fields["name"],
        out_features=fields["out_features"],
        in_features=fields["in_features"],
        parts=_parts(fields["parts"]),
        bias=_parts(fields.get("bias")),
        layer=fields.get("layer"),
        keep=bool(fields.get("keep", False)),
    )


def _table(fields: Mapping[str, Any]) -> Table:
    return Table(fields["name"], fields["rows"], fields["columns"], _parts(fields["parts"]))

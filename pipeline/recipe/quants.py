"""Rows for `doit quants`: what conf/quant/ offers, read as plain YAML."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.recipe import typed
from pipeline.recipe.conf import conf_dirs, option_files, read_yaml
from pipeline.recipe.schema import Quant


@dataclass(frozen=True)
class QuantRow:
    """One preset. bits_per_weight: of a body linear, with scales and zero points. notes: the YAML's comment."""

    name: str
    algorithm: str
    bits: int
    block: int
    lm_bits: int | None
    symmetric: bool
    bits_per_weight: float
    notes: str


def quant_rows(folders: Sequence[Path] | None = None) -> list[QuantRow]:
    """Every preset, by bits and name. Raises UserError that names a YAML that is wrong."""
    files = option_files("quant", folders if folders is not None else conf_dirs())
    return sorted((_row(name, file) for name, file in files.items()), key=lambda row: (-row.bits, row.name))


def _row(name: str, file: Path) -> QuantRow:
    quant = typed.build(Quant, read_yaml(file) or {}, f"{file.name}: quant")
    return QuantRow(
        name=name,
        algorithm=quant.algorithm,
        bits=quant.bits,
        block=quant.block,
        lm_bits=quant.lm_bits,
        symmetric=quant.symmetric,
        bits_per_weight=bits_per_weight(quant),
        notes=_comment(file),
    )


def bits_per_weight(quant: Quant, bits: int | None = None) -> float:
    """Stored bits of one weight: its code, and its share of a block's scale (and zero point, unless symmetric)."""
    width = quant.bits if bits is None else bits
    if width >= 16 or quant.block == 0:
        return float(min(width, 16))
    return width + quant.scale_bits * (1 if quant.symmetric else 2) / quant.block


def _comment(file: Path) -> str:
    """The first paragraph of the file's leading comment."""
    lines = []
    for line in file.read_text("utf-8").splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.lstrip("# ").strip())
    return " ".join(lines)

"""quant=source: linears whose checkpoint tensors are lattices already keep their codes and scales.

GGUF's Q4_0, Q4_1 and Q8_0 and GPTQ's groups are grids that the engine can hold. Codes and scales are taken over as they
are: scales (and values of the middle code) take 16 bits where float16 holds all of them exactly, else 32. Only a recipe
that asks for quant.scale_bits=16 has them rounded. Everything else (K-quants, fp16 tensors, stacked experts) is
quantised anew at the recipe's bits, and the stage says how many linears that concerns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.checkpoint.tensor import Checkpoint, QuantisedTensor
from pipeline.errors import UserError
from pipeline.weights.layout import Layout, Linear, Part
from pipeline.weights.parts import overlaps, part_rows, source_rows
from pipeline.weights.precision import Precision

F32 = NDArray[np.float32]
ROWS = 4096
SOURCE = "source"
AGAIN = "rtn"
"""How linears without a lattice are quantised."""


@dataclass(frozen=True)
class PartsLattice:
    """The lattice of a linear: rows of its parts' tensors, in the linear's order."""

    parts: tuple[Part, ...]
    checkpoint: Checkpoint

    def read_codes(self, start: int = 0, stop: int | None = None) -> NDArray[np.uint8]:
        """uint8 [rows, in]."""
        return np.concatenate([_picked(t.read_codes, rows) for t, rows in self._runs(start, stop)])

    def read_scales(self, start: int = 0, stop: int | None = None) -> tuple[F32, F32]:
        """(scales, zeros), float32 [rows, in / block] each."""
        runs = list(self._runs(start, stop))
        scales = [_picked(lambda a, b, t=t: t.read_scales(a, b)[0], rows) for t, rows in runs]  # type: ignore[misc]
        zeros = [_picked(lambda a, b, t=t: t.read_scales(a, b)[1], rows) for t, rows in runs]  # type: ignore[misc]
        return np.concatenate(scales), np.concatenate(zeros)

    def _runs(self, start: int, stop: int | None) -> Iterator[tuple[Any, NDArray[np.intp]]]:
        total = sum(part_rows(part, self.checkpoint) for part in self.parts)
        for part, a, b in overlaps(self.parts, self.checkpoint, start, total if stop is None else stop):
            rows = source_rows(part, part_rows(part, self.checkpoint))[a:b]
            yield self.checkpoint[part.tensor], rows


def _picked(read: Callable[[int, int], NDArray[Any]], rows: NDArray[np.intp]) -> NDArray[Any]:
    """`rows` of a tensor, read in one run that covers them."""
    first = int(rows.min())
    return read(first, int(rows.max()) + 1)[rows - first]


def follow_source(
    layout: Layout, precisions: Mapping[str, Precision], checkpoint: Checkpoint, wide_only: bool = False
) -> tuple[dict[str, Precision], str]:
    """The precisions with `source` replaced by what the checkpoint holds, and a line about it. A linear without a
    lattice that the engine can hold gets another algorithm, so that `source` says where `lattices` finds one.

    wide_only: the engine reads scales of 32 bits only. Raises UserError if no linear at all has such a lattice.
    """
    resolved = dict(precisions)
    wanted = [linear for linear in layout.linears if precisions[linear.name].algorithm == SOURCE]
    for linear in wanted:
        resolved[linear.name] = _followed(linear, precisions[linear.name], checkpoint, wide_only)
    taken = sum(resolved[linear.name].algorithm == SOURCE for linear in wanted)
    if wanted and not taken:
        raise UserError(
            "quant=source, but no linear of this checkpoint is stored in codes that the engine can hold "
            f"({', '.join(sorted({str(checkpoint[linear.parts[0].tensor].dtype) for linear in wanted}))})",
            "choose another quant, say quant=int4",
        )
    return resolved, _told(len(wanted), taken)


def lattices(
    layout: Layout, precisions: Mapping[str, Precision], checkpoint: Checkpoint
) -> dict[str, PartsLattice]:
    """The lattice of every linear that keeps the source's codes, by `precisions` as `follow_source` gave them."""
    return {
        linear.name: PartsLattice(linear.parts, checkpoint)
        for linear in layout.linears
        if precisions[linear.name].algorithm == SOURCE
    }


def _followed(linear: Linear, asked: Precision, checkpoint: Checkpoint, wide_only: bool) -> Precision:
    lattice = _lattice(linear, checkpoint)
    if lattice is None:
        return replace(asked, algorithm=AGAIN, scale_bits=asked.scale_bits if wide_only else 16)
    precision = replace(asked, bits=lattice.bits, block=lattice.block, symmetric=lattice.symmetric)
    narrow = precision.scale_bits == 16 or (
        not wide_only and _in_halves(PartsLattice(linear.parts, checkpoint), linear, precision)
    )
    return replace(precision, scale_bits=16 if narrow else 32)


def _in_halves(lattice: PartsLattice, linear: Linear, precision: Precision) -> bool:
    """Whether float16 holds every scale, and every middle value that is stored, exactly."""
    for start in range(0, linear.out_features, ROWS):
        scales, zeros = lattice.read_scales(start, min(start + ROWS, linear.out_features))
        for values in (scales,) if precision.symmetric else (scales, zeros):
            with np.errstate(over="ignore"):
                if not np.array_equal(values.astype(np.float16).astype(np.float32), values):
                    return False
    return True


def _told(wanted: int, taken: int) -> str:
    again = f", {wanted - taken} quantised anew" if taken < wanted else ""
    return f"{taken} linears keep the source's codes{again}" if wanted else ""


def _lattice(linear: Linear, checkpoint: Checkpoint) -> QuantisedTensor | None:
    """The kind of lattice that all parts of `linear` share, or None."""
    tensors = [checkpoint[part.tensor] for part in linear.parts]
    plain = all(part.index is None and not part.transpose and part.scale == 1.0 for part in linear.parts)
    if not plain or not all(isinstance(tensor, QuantisedTensor) for tensor in tensors):
        return None
    first = tensors[0]
    assert isinstance(first, QuantisedTensor)
    kinds = {(t.bits, t.block, t.symmetric) for t in tensors if isinstance(t, QuantisedTensor)}
    return first if len(kinds) == 1 and linear.in_features % first.block == 0 else None

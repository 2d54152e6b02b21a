"""A split adapter's changes of checkpoint tensors → changes of the graph's linears, as `link` takes them.

A linear is a concatenation of runs of rows of tensors (layout.json): what happens to the rows of a tensor on their way
into a linear happens here to the rows of its low-rank difference.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from pipeline.checkpoint.changes import LowRank as TensorChange
from pipeline.checkpoint.lora_names import HEADS
from pipeline.checkpoint.lora_split import MERGE, SplitAdapter
from pipeline.checkpoint.tensor import Checkpoint
from pipeline.errors import StageFailed
from pipeline.mnn.rewrite.low_rank import LowRank
from pipeline.weights.layout import Layout, Linear, Part
from pipeline.weights.parts import part_rows, source_rows

F32 = npt.NDArray[np.float32]


def by_linear(adapter: SplitAdapter, layout: Layout, base: Checkpoint) -> dict[str, LowRank]:
    """The adapter's part of each linear that it changes. base: the checkpoint's tensors, of which only shapes are read.

    Raises StageFailed for a tensor that is in no linear.
    """
    used: set[str] = set()
    found: dict[str, LowRank] = {}
    for linear in layout.linears:
        names = [_changed(part, linear.name == layout.lm_head, adapter) for part in linear.parts]
        shifts = [part.tensor for part in linear.bias if part.tensor in adapter.vectors]
        if any(names) or shifts:
            found[linear.name] = _linear(linear, names, adapter, base)
            used.update(name for name in (*names, *shifts) if name)
    if stray := sorted({*adapter.matrices, *adapter.vectors} - used):
        raise StageFailed(f"adapter {adapter.name} changes {stray[0]}, which is no linear of the graph", MERGE)
    return found


def _changed(part: Part, is_head: bool, adapter: SplitAdapter) -> str:
    """The name under which the adapter changes the tensor of `part`, or "". A tied head has no tensor of its own."""
    names = [part.tensor, *(f"{head}.weight" for head in HEADS if is_head)]
    return next((name for name in names if name in adapter.matrices), "")


def _linear(linear: Linear, names: Sequence[str], adapter: SplitAdapter, base: Checkpoint) -> LowRank:
    """up [out, r], down [r, in]: parts that different matrices change get columns of `up` of their own."""
    distinct = list(dict.fromkeys(name for name in names if name))
    downs, ups = [], []
    for name in distinct:
        change = adapter.matrices[name]
        rows = [
            _part_up(part, change, base)
            if other == name
            else np.zeros((part_rows(part, base), len(change.right)), np.float32)
            for part, other in zip(linear.parts, names, strict=True)
        ]
        part = linear.parts[names.index(name)]
        ups.append(np.concatenate(rows))
        # A transposed part's tensor is stored [in, out], and so its difference is [in, r] @ [r, out].
        downs.append(change.left.T if part.transpose else change.right)
    if not distinct:  # a bias alone: the product is zero
        ups.append(np.zeros((linear.out_features, 1), np.float32))
        downs.append(np.zeros((1, linear.in_features), np.float32))
    bias = _bias(linear, adapter, base)
    return LowRank(np.ascontiguousarray(np.concatenate(downs)), np.ascontiguousarray(np.hstack(ups)), bias)


def _part_up(part: Part, change: TensorChange, base: Checkpoint) -> F32:
    """[rows of the part, r]; the adapter's scale and the part's own are in it."""
    if part.index is not None:
        raise StageFailed(f"{part.tensor} is a stack of matrices, which a split adapter cannot change", MERGE)
    matrix = change.right.T if part.transpose else change.left
    scaled = matrix[source_rows(part, part_rows(part, base))] * np.float32(change.scale) * np.float32(part.scale)
    return np.asarray(scaled, np.float32)


def _bias(linear: Linear, adapter: SplitAdapter, base: Checkpoint) -> F32 | None:
    """[out], or None where no bias changes."""
    if not any(part.tensor in adapter.vectors for part in linear.bias):
        return None
    pieces = []
    for part in linear.bias:
        count = part_rows(part, base)
        shift = adapter.vectors.get(part.tensor)
        values = np.zeros(count, np.float32) if shift is None else shift.values[source_rows(part, count)]
        pieces.append(values * np.float32(part.scale))
    return np.asarray(np.concatenate(pieces), np.float32)

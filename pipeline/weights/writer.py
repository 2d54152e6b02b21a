"""llm.mnn.weight: every linear and table of a layout, quantised row block by row block at an offset known beforehand.

The file has no header and no alignment (MNN 3.6.1 addresses blobs by byte offsets). A linear is header, codes, scales
and bias; since all sizes follow from the shapes, row blocks are written in any order by several threads, and nothing
larger than one row block per thread is ever in memory but the scales of the linears in work.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.checkpoint.tensor import Checkpoint
from pipeline.weights import sizes
from pipeline.weights.layout import Layout, Linear, Table
from pipeline.weights.matrix import Encoder, finite
from pipeline.weights.parts import check_parts, part_names, read_rows
from pipeline.weights.places import Placement, place, place_tables, table_entry
from pipeline.weights.plain import Packed
from pipeline.weights.precision import Precision

ROW_BLOCK_BYTES = 4 << 20
"""Weights read at once by one thread, counted in bfloat16."""
DIGITS = 4
"""Significant digits of the error sums: their last ones depend on the CPU's vector width."""

Progress = Callable[[int], None]


def write(
    path: Path,
    layout: Layout,
    precisions: Mapping[str, Precision],
    encoder: Encoder,
    progress: Progress,
    threads: int = 2,
) -> dict[str, Any]:
    """Write the weight file to `path`; the content of weights.json is returned (docs/architecture.md).

    progress gets the number of source weights done so far. Raises StageFailed for tensors that are missing, of another
    shape than the layout says, not finite or out of the storage type's range.
    """
    placements = place(layout, precisions)
    _check(layout, encoder.checkpoint)
    tables, end = place_tables(layout.tables, placements)
    with path.open("wb") as file, ThreadPoolExecutor(threads) as pool:
        target = _Target(file.fileno(), encoder)
        entries = dict(_linears(placements, target, pool, 2 * threads, progress))
        for table, offset in tables:
            _table(table, target, offset)
    told = {table.name: table_entry(table, offset) for table, offset in tables}
    return {"linears": entries, "tables": told, "bytes": end}


@dataclass(frozen=True)
class _Target:
    descriptor: int
    encoder: Encoder


def _check(layout: Layout, checkpoint: Checkpoint) -> None:
    for linear in layout.linears:
        check_parts(linear.name, linear.out_features, linear.in_features, linear.parts, checkpoint)
        if linear.bias:
            check_parts(f"{linear.name}.bias", linear.out_features, None, linear.bias, checkpoint)
    for table in layout.tables:
        check_parts(table.name, table.rows, table.columns, table.parts, checkpoint)


def _linears(
    placements: list[Placement], target: _Target, pool: ThreadPoolExecutor, ahead: int, progress: Progress
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Quantise all row blocks on `pool` and close each linear, in order, when its last row block is written."""
    blocks: list[Packed] = []
    weights = 0
    for placement, start, stop, packed in _row_blocks(placements, target, pool, ahead):
        blocks.append(packed)
        weights += (stop - start) * placement.linear.in_features
        progress(weights)
        if stop == placement.linear.out_features:
            yield placement.linear.name, _close(placement, blocks, target)
            blocks.clear()


def _row_blocks(
    placements: list[Placement], target: _Target, pool: ThreadPoolExecutor, ahead: int
) -> Iterator[tuple[Placement, int, int, Packed]]:
    """The row blocks in order, with at most `ahead` of them begun beyond the one that is waited for."""
    waiting: deque[tuple[Placement, int, int, Future[Packed]]] = deque()
    for placement in placements:
        for start, stop in row_blocks(placement.linear):
            future = pool.submit(partial(_row_block, placement, target, start, stop))
            waiting.append((placement, start, stop, future))
            if len(waiting) > ahead:
                yield _finished(waiting.popleft())
    while waiting:
        yield _finished(waiting.popleft())


def _finished(block: tuple[Placement, int, int, Future[Packed]]) -> tuple[Placement, int, int, Packed]:
    return (*block[:3], block[3].result())


def row_blocks(linear: Linear) -> Iterator[tuple[int, int]]:
    """Ranges of output rows of about ROW_BLOCK_BYTES, multiples of eight so that codes end on whole bytes."""
    rows = max(8, ROW_BLOCK_BYTES // (2 * linear.in_features) // 8 * 8)
    for start in range(0, linear.out_features, rows):
        yield start, min(start + rows, linear.out_features)


def _row_block(placement: Placement, target: _Target, start: int, stop: int) -> Packed:
    """Read, quantise and write the codes of rows [start, stop); the scales are left to be written with the others."""
    linear, precision = placement.linear, placement.precision
    packed = target.encoder.rows(linear, precision, start, stop)
    first = sizes.code_bytes(start * linear.in_features, precision.bits)
    write_at(target.descriptor, packed.codes, placement.offset + len(placement.header) + first)
    return Packed(packed.codes[:0], packed.alpha, packed.squared_error, packed.squared_norm)


def _close(placement: Placement, blocks: list[Packed], target: _Target) -> dict[str, Any]:
    """Write header, scales and bias of a linear whose codes are written; its entry in weights.json."""
    linear = placement.linear
    write_at(target.descriptor, np.frombuffer(placement.header, np.uint8), placement.offset)
    alpha = np.concatenate([block.alpha for block in blocks])
    position = placement.offset + placement.weight_bytes
    write_at(target.descriptor, alpha, position)
    if linear.bias:
        write_at(target.descriptor, _bias(linear, target.encoder), position + placement.alpha_bytes)
    sums = {
        "squared_error": sum(block.squared_error for block in blocks),
        "squared_norm": sum(block.squared_norm for block in blocks),
    }
    return placement.entry() | {name: float(f"{value:.{DIGITS}g}") for name, value in sums.items()}


def _bias(linear: Linear, encoder: Encoder) -> NDArray[np.float32]:
    bias = read_rows(linear.bias, encoder.checkpoint, 0, linear.out_features).astype(np.float32)
    return finite(encoder.folds.bias(linear.name, bias), part_names(linear.bias))


def _table(table: Table, target: _Target, offset: int) -> None:
    """Write a lookup table in float32, rows block by block."""
    row = 4 * table.columns
    step = max(1, ROW_BLOCK_BYTES // row)
    for start in range(0, table.rows, step):
        stop = min(start + step, table.rows)
        rows = read_rows(table.parts, target.encoder.checkpoint, start, stop).astype(np.float32)
        write_at(target.descriptor, finite(rows, part_names(table.parts)), offset + start * row)


def write_at(descriptor: int, values: NDArray[Any], offset: int) -> None:
    """All bytes of `values` at `offset`; os.pwrite alone may stop early (2 GiB, a full disk)."""
    view = np.ascontiguousarray(values).reshape(-1).view(np.uint8).data
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written

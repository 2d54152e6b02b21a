"""llm.mnn.weight: every linear and table of a layout, quantised row block by row block at an offset known beforehand.

The file has no header and no alignment (MNN 3.6.1 addresses blobs by byte offsets). A linear is header, codes, scales
and bias. Several threads read and quantise row blocks; one writes them in the file's order, so that it can hash them,
too (threads that write to one file only wait for each other in the kernel). No more is in memory than a few row blocks
per thread, and the scales of the linear in work.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.checkpoint.tensor import Checkpoint
from pipeline.weights.hashed import HashedFile
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
    file: HashedFile,
    layout: Layout,
    precisions: Mapping[str, Precision],
    encoder: Encoder,
    progress: Progress,
    threads: int = 2,
) -> dict[str, Any]:
    """Write the weights to the new `file`; the content of weights.json is returned (docs/architecture.md).

    progress gets the number of source weights done so far. Raises StageFailed for tensors that are missing, of another
    shape than the layout says, not finite or out of the storage type's range.
    """
    placements = place(layout, precisions)
    _check(layout, encoder.checkpoint)
    tables, end = place_tables(layout.tables, placements)
    target = _Target(file, encoder)
    with ThreadPoolExecutor(threads) as pool:
        entries = dict(_linears(placements, target, pool, 2 * threads, progress))
    for table, offset in tables:
        _table(table, target, offset)
    target.expect(end, "its end")
    told = {table.name: table_entry(table, offset) for table, offset in tables}
    return {"linears": entries, "tables": told, "bytes": end}


@dataclass(frozen=True)
class _Target:
    file: HashedFile
    encoder: Encoder

    def expect(self, offset: int, what: str) -> None:
        """Raises RuntimeError unless the file has come to `offset`, where the graph will look for `what`."""
        if self.file.position != offset:
            raise RuntimeError(f"the weight file has {self.file.position} bytes, not {offset}, before {what}")


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
    """Quantise all row blocks on `pool`; write them here, and close each linear after its last."""
    alphas: list[Packed] = []
    weights = 0
    for placement, start, stop, packed in _row_blocks(placements, target.encoder, pool, ahead):
        if start == 0:
            target.expect(placement.offset, placement.linear.name)
            target.file.write(np.frombuffer(placement.header, np.uint8))
        target.file.write(packed.codes)
        alphas.append(replace(packed, codes=packed.codes[:0].copy()))  # a view would keep all of the linear's codes
        weights += (stop - start) * placement.linear.in_features
        progress(weights)
        if stop == placement.linear.out_features:
            yield placement.linear.name, _close(placement, alphas, target)
            alphas.clear()


def _row_blocks(
    placements: list[Placement], encoder: Encoder, pool: ThreadPoolExecutor, ahead: int
) -> Iterator[tuple[Placement, int, int, Packed]]:
    """The row blocks in order, with at most `ahead` of them begun beyond the one that is waited for."""
    waiting: deque[tuple[Placement, int, int, Future[Packed]]] = deque()
    for placement in placements:
        for start, stop in row_blocks(placement.linear):
            future = pool.submit(encoder.rows, placement.linear, placement.precision, start, stop)
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


def _close(placement: Placement, blocks: list[Packed], target: _Target) -> dict[str, Any]:
    """Write scales and bias of a linear whose codes are written; its entry in weights.json."""
    linear = placement.linear
    target.file.write(np.concatenate([block.alpha for block in blocks]))
    if linear.bias:
        target.file.write(_bias(linear, target.encoder))
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
    target.expect(offset, table.name)
    step = max(1, ROW_BLOCK_BYTES // (4 * table.columns))
    for start in range(0, table.rows, step):
        stop = min(start + step, table.rows)
        rows = read_rows(table.parts, target.encoder.checkpoint, start, stop).astype(np.float32)
        target.file.write(finite(rows, part_names(table.parts)))

"""Hundreds of thousands of short texts at once: sorted by their bytes, and written one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.tokenizer.binary import MAX_STRING
from pipeline.tokenizer.definition import unsupported

Integers = NDArray[np.int64]
MOST = 1 << 23  # texts: a rank and AT_ONCE bytes are one positive number of 64 bits
AT_ONCE = 5


@dataclass(frozen=True)
class Texts:
    """Texts in UTF-8: text i is data[starts[i] : starts[i] + lengths[i]]."""

    data: NDArray[np.uint8]
    starts: Integers
    lengths: Integers

    @classmethod
    def of(cls, texts: Sequence[str]) -> Texts:
        """Encoded as one text, and cut where characters begin. Raises StageFailed for more or longer ones than fit."""
        data = np.frombuffer("".join(texts).encode("utf-8"), np.uint8)
        characters = np.append(np.flatnonzero((data & 0xC0) != 0x80), len(data))
        counts = np.fromiter(map(len, texts), np.int64, len(texts))
        bounds = characters[np.append(0, np.cumsum(counts))]
        lengths = np.diff(bounds)
        if lengths.max(initial=0) > MAX_STRING or len(lengths) >= MOST:
            raise unsupported(f"{len(lengths):,} pieces of up to {lengths.max():,} bytes")
        return cls(data, bounds[:-1], lengths)

    def order(self, behind: NDArray[np.bool_]) -> Integers:
        """Indices of the texts sorted by their bytes; equal ones as they stand, but those of the mask `behind` last."""
        ranks = np.zeros(len(self.starts), np.int64)
        tied, offset = np.arange(len(ranks)), 0
        while tied.size:
            tied = _refine(ranks, tied, self._bytes(tied, offset))
            offset += AT_ONCE
            tied = tied[self.lengths[tied] > offset]
        by_length = ranks * (MAX_STRING + 1) + self.lengths  # "a" and "a\\0" have one rank
        return np.argsort(by_length * 2 + behind, kind="stable")

    def records(self, order: Integers, after: NDArray[np.uint8]) -> bytes:
        """The texts in `order`, each as u16 length and bytes, and behind it its row of `after`, [n, bytes a row]."""
        lengths = self.lengths[order]
        ends = np.cumsum(2 + lengths + after.shape[1])
        starts = ends - after.shape[1] - lengths
        written = np.empty(int(ends[-1]), np.uint8)
        for at, column in enumerate(lengths.astype("<u2").view(np.uint8).reshape(-1, 2).T):
            written[starts - 2 + at] = column
        for at, column in enumerate(after.T):
            written[starts + lengths + at] = column
        within = np.arange(int(lengths.sum())) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        written[np.repeat(starts, lengths) + within] = self.data[np.repeat(self.starts[order], lengths) + within]
        return written.tobytes()

    def _bytes(self, chosen: Integers, offset: int) -> Integers:
        """AT_ONCE bytes of each text from `offset` on as one number, zeros behind its end."""
        padded = np.append(self.data, np.zeros(8, np.uint8))
        eight = np.ndarray(len(self.data) + 1, ">u8", padded, strides=(1,))  # from every byte on
        beyond = 8 * np.clip(offset + 8 - self.lengths[chosen], 8 - AT_ONCE, 8)
        found = eight[self.starts[chosen] + offset].astype(np.uint64)
        # Twice, as a shift of all 64 bits is not defined.
        half = beyond.astype(np.uint64) // 2
        return (found >> half >> half << half << half >> (64 - 8 * AT_ONCE)).astype(np.int64)


def _refine(ranks: Integers, tied: Integers, numbers: Integers) -> Integers:
    """Tells texts of equal rank by their numbers: a rank grows by how many come before. Returns those still tied."""
    keys = ranks[tied] << 8 * AT_ONCE | numbers
    order = np.argsort(keys)
    sorted_keys, chosen = keys[order], tied[order]
    old = sorted_keys >> 8 * AT_ONCE
    ranks[chosen] = old + _first(sorted_keys) - _first(old)
    new = np.append(np.append(True, sorted_keys[1:] != sorted_keys[:-1]), True)
    still: Integers = chosen[~(new[:-1] & new[1:])]
    return still


def _first(values: Integers) -> Integers:
    """[n]: of each of the sorted values, where its equals begin."""
    at = np.arange(len(values))
    return np.maximum.accumulate(np.where(np.append(True, values[1:] != values[:-1]), at, 0))

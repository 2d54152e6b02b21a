"""A checkpoint in memory, and the reference that the compiled weight pass is held to."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

from pipeline.checkpoint.tensor import ArrayTensor
from pipeline.weights.precision import Precision

NAMES = {np.dtype(ml_dtypes.bfloat16): "BF16", np.dtype(np.float16): "F16", np.dtype(np.float32): "F32"}


def checkpoint(**arrays: np.ndarray) -> dict[str, ArrayTensor]:
    """Named arrays as a checkpoint; two underscores stand for a dot."""
    return {name.replace("__", "."): ArrayTensor(array, NAMES[array.dtype]) for name, array in arrays.items()}


def reference(weights: np.ndarray, precision: Precision) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Round to nearest as one reads it in a book: signed codes [n, block], scale [n] and zero [n], all float32."""
    store = np.float16 if precision.scale_bits == 16 else np.float32
    x = weights.astype(np.float32).reshape(-1, precision.block)
    low, high, top = x.min(1), x.max(1), 2 ** (precision.bits - 1)
    scale = abs(x).max(1) / np.float32(top - 1) if precision.symmetric else (high - low) / np.float32(2 * top - 1)
    scale = scale.astype(store).astype(np.float32)
    zero = 0 * scale if precision.symmetric else (low + scale * np.float32(top)).astype(store).astype(np.float32)
    with np.errstate(divide="ignore", invalid="ignore"):
        steps = np.where(scale[:, None] > 0, np.rint((x - zero[:, None]) / scale[:, None]), 0)
    return np.clip(steps, -top + precision.symmetric, top - 1).astype(int), scale, zero


def unpack(data: bytes, count: int, bits: int) -> np.ndarray:
    """Unsigned codes of a most-significant-bit-first stream, through numpy's own bit order."""
    stream = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="big")[: count * bits].reshape(count, bits)
    return (stream.astype(np.int64) << np.arange(bits)[::-1]).sum(1)


def dequantised(blob: bytes, entry: dict[str, Any]) -> np.ndarray:
    """The matrix that the engine will see: `blob` is the whole weight file, `entry` its record in weights.json."""
    offset, weight_bytes, alpha_bytes, _, _ = entry["external"]
    rows, columns, bits, block = entry["out_features"], entry["in_features"], entry["bits"], entry["block"]
    body = blob[offset + entry["header_bytes"] : offset + weight_bytes]
    if bits == 16:
        return np.frombuffer(body, np.float16).astype(np.float32).reshape(rows, columns)
    store = np.float16 if entry["scale_bits"] == 16 else np.float32
    alpha = np.frombuffer(blob[offset + weight_bytes :][:alpha_bytes], store).astype(np.float32)
    alpha = alpha.reshape(-1, 1 if entry["symmetric"] else 2)
    zero = 0 if entry["symmetric"] else alpha[:, :1]
    signed = unpack(body, rows * columns, bits).reshape(-1, block) - 2 ** (bits - 1)
    return (signed.astype(np.float32) * alpha[:, -1:] + zero).reshape(rows, columns)

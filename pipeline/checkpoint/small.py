"""Which tensors travel as values beside the graph: norms, biases, convolution kernels; never a weight matrix."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np

from pipeline.checkpoint.safetensors import write_safetensors
from pipeline.checkpoint.tensor import Checkpoint, LazyTensor

SMALL_ELEMENTS = 65_536
FLOATS = (np.dtype(np.float32), np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16))


def is_small(tensor: LazyTensor) -> bool:
    """One axis at most, or no more than 65,536 elements (docs/architecture.md, tensors.json)."""
    return len(tensor.shape) <= 1 or int(np.prod(tensor.shape, dtype=np.int64)) <= SMALL_ELEMENTS


def write_small(checkpoint: Checkpoint, path: Path) -> int:
    """Write the floating-point tensors that are small to a safetensors file; the count. Integer buffers stay out."""
    small = {name: tensor.read() for name, tensor in checkpoint.items() if is_small(tensor)}
    kept = {name: values for name, values in small.items() if values.dtype in FLOATS}
    write_safetensors(path, kept)
    return len(kept)

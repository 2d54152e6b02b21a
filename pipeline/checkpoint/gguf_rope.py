"""RoPE scaling of a GGUF: from its metadata, and from the table that stands for Llama 3.1's scaling.

llama.cpp stores Llama 3.1's scaling only as `rope_freqs.weight`, a divisor for each frequency (its converter:
LlamaModel.generate_extra_tensors). transformers wants the parameters, so they are found again and proved: the table
that they give must be the file's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.checkpoint.gguf_header import read_header
from pipeline.errors import StageFailed

F32 = npt.NDArray[np.float32]
LLAMA3_TABLE = "rope_freqs.weight"
FOLDER = "use the model's Hugging Face folder"
# The converter's defaults and those of every published model: wavelengths above context/1 scaled, below context/4 not.
LOW, HIGH = 1.0, 4.0
CONTEXTS = tuple(1 << power for power in range(10, 21))


def rope_tables(path: Path) -> dict[str, F32]:
    """The RoPE tables of a GGUF file by name, float32 [rotary dimensions / 2]."""
    header = read_header(path)
    return {
        name: header.file.read(info.offset, 4 * int(np.prod(info.shape))).view(np.float32)
        for name, info in header.tensors.items()
        if name.startswith("rope_f") and info.kind == 0
    }


def with_table(parameters: Mapping[str, Any], tables: Mapping[str, F32], head_dim: int) -> dict[str, Any]:
    """rope_parameters with what the tables say. Raises StageFailed for a table that no known scaling gives."""
    if others := sorted(set(tables) - {LLAMA3_TABLE}):
        raise StageFailed(f"this GGUF scales RoPE by a table of factors ({others[0]}), which is not read here", FOLDER)
    table = tables.get(LLAMA3_TABLE)
    if table is None or (table == 1).all():
        return dict(parameters)
    factor = float(table.max())
    for context in CONTEXTS:
        if np.allclose(llama3_table(parameters["rope_theta"], head_dim, factor, context), table, rtol=1e-5, atol=0):
            return {**parameters, "rope_type": "llama3", "factor": factor, "low_freq_factor": LOW,
                    "high_freq_factor": HIGH, "original_max_position_embeddings": context}  # fmt: skip
    raise StageFailed("this GGUF's rope_freqs.weight is no scaling of Llama 3.1's kind", FOLDER)


def llama3_table(theta: float, head_dim: int, factor: float, context: int) -> npt.NDArray[np.float64]:
    """Divisors of the frequencies theta^(−2i/head_dim) for a model trained on `context` positions."""
    turns = context * theta ** (-np.arange(0, head_dim, 2) / head_dim) / (2 * math.pi)
    smooth = np.clip((turns - LOW) / (HIGH - LOW), 0, 1)
    return np.asarray(1 / ((1 - smooth) / factor + smooth))

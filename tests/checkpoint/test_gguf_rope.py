"""RoPE scaling found again from a table, against transformers' own frequencies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from pipeline.checkpoint.gguf_rope import llama3_table, rope_tables, with_table
from pipeline.errors import StageFailed

PLAIN = {"rope_type": "default", "rope_theta": 500000.0}


def transformers_table(theta: float, head_dim: int, factor: float, context: int) -> np.ndarray:
    """Plain frequencies over scaled ones, both from transformers."""
    scaled = {"rope_type": "llama3", "rope_theta": theta, "factor": factor, "low_freq_factor": 1.0,
              "high_freq_factor": 4.0, "original_max_position_embeddings": context}  # fmt: skip
    config = LlamaConfig(head_dim=head_dim, rope_parameters=scaled)
    frequencies, _ = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
    plain = 1.0 / theta ** (np.arange(0, head_dim, 2) / head_dim)
    return np.asarray(plain / frequencies.numpy(), np.float32)


@pytest.mark.parametrize(
    ("theta", "head_dim", "factor", "context"),
    [(500000.0, 128, 8.0, 8192), (500000.0, 64, 32.0, 8192), (10000.0, 64, 4.0, 2048)],
)
def test_parameters_come_back(theta: float, head_dim: int, factor: float, context: int) -> None:
    table = transformers_table(theta, head_dim, factor, context)
    np.testing.assert_allclose(llama3_table(theta, head_dim, factor, context), table, rtol=1e-5)
    found = with_table({**PLAIN, "rope_theta": theta}, {"rope_freqs.weight": table}, head_dim)
    assert found["rope_type"] == "llama3" and found["original_max_position_embeddings"] == context
    assert found["factor"] == pytest.approx(factor, rel=1e-6)
    assert (found["low_freq_factor"], found["high_freq_factor"], found["rope_theta"]) == (1.0, 4.0, theta)


def test_without_scaling() -> None:
    assert with_table(PLAIN, {}, 64) == PLAIN
    assert with_table(PLAIN, {"rope_freqs.weight": np.ones(32, np.float32)}, 64) == PLAIN


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({"rope_freqs.weight": np.linspace(1, 9, 32, dtype=np.float32)}, "no scaling of Llama 3.1's kind"),
        ({"rope_factors_long.weight": np.ones(32, np.float32)}, "rope_factors_long"),
    ],
)
def test_tables_that_mean_something_else(tables: dict[str, Any], message: str) -> None:
    with pytest.raises(StageFailed, match=message):
        with_table(PLAIN, tables, 64)


def test_tables_are_read_from_the_file(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    table = transformers_table(500000.0, 64, 8.0, 8192)
    writer.add_tensor("rope_freqs.weight", table)
    writer.add_tensor("output_norm.weight", np.ones(4, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    found = rope_tables(tmp_path / "m.gguf")
    assert list(found) == ["rope_freqs.weight"]
    np.testing.assert_array_equal(found["rope_freqs.weight"], table)

"""The benchmark's own sums: what it refuses, how it counts, and that its plot is the same bytes for the same rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import divergence, quality

RNG = np.random.default_rng(0)
ROWS: list[dict[str, Any]] = [
    dict(zip(quality.FORMATS, ("int4", 10, 4.5, 0.2, 1.0, 0.7, 9, 3), strict=False)),
    dict(zip(quality.FORMATS, ("int8", 20, 8.5, 0.01, 0.1, 0.9, 8, 3), strict=False)),
]


def test_calibration_text_is_not_measured_on() -> None:
    text = RNG.integers(0, 999, 400).tolist()
    divergence.refuse_calibration([text[:100]], [text[100:]])
    divergence.refuse_calibration([text[:100]], [text[80:]])  # twenty tokens in a row happen by chance
    with pytest.raises(SystemExit, match="the measured text is in the calibration text"):
        divergence.refuse_calibration([text[:100]], [text[70:]])


def test_perplexity_is_torchs_cross_entropy() -> None:
    ids = RNG.integers(0, 50, (3, 90)).tolist()
    logits = RNG.normal(size=(3, 90, 50)).astype(np.float32)
    losses = [
        torch.nn.functional.cross_entropy(torch.from_numpy(rows[:-1]), torch.tensor(run[1:]), reduction="none")
        for rows, run in zip(logits, ids, strict=True)
    ]
    found = divergence.perplexity(logits.reshape(-1, 50), ids)
    assert found == pytest.approx(float(torch.cat(losses).mean().exp()), rel=1e-6)


def test_every_uniform_four_bit_quant_is_repeated_at_other_blocks() -> None:
    cases = list(quality._cases(["int8", "int4-gptq", "int4 quant.bits=3", "auto"], [192], 64))
    assert [case.label for case in cases] == [
        "int8", "int4-gptq", "int4-gptq block=192 lm_block=64", "int4 bits=3", "auto"
    ]


def test_table_and_plot_hold_every_recipe(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        quality._write(tmp_path / name, "m", ROWS)
    table = (tmp_path / "a" / "quality.md").read_text()
    assert "| int4 | 10 | 4.50 | 0.2000 | 1.000 | 70.0% | 9.00 | 3 |  |" in table
    plot = (tmp_path / "a" / "quality.svg").read_bytes()
    assert plot == (tmp_path / "b" / "quality.svg").read_bytes()
    assert b">int4<" in plot and b">int8<" in plot

"""The shipped presets, and what a weight costs."""

from __future__ import annotations

import pytest

from pipeline.recipe.compose import compose
from pipeline.recipe.conf import SHIPPED, options
from pipeline.recipe.quants import bits_per_weight, quant_rows
from pipeline.recipe.schema import Quant


def test_the_promised_presets_are_there() -> None:
    assert {"fp16", "int8", "int4"} <= set(options("quant", [SHIPPED]))


@pytest.mark.parametrize("name", options("quant", [SHIPPED]))
def test_every_preset_composes_on_the_default_target(name: str) -> None:
    (composed,) = compose([f"quant={name}"], [SHIPPED])
    assert composed.recipe.quant.name == name
    assert composed.name == f"smollm2-135m-{name}"


def test_rows_say_what_a_preset_is() -> None:
    rows = {row.name: row for row in quant_rows([SHIPPED])}
    assert set(rows) == set(options("quant", [SHIPPED]))
    assert (rows["int4"].bits, rows["int4"].block, rows["int4"].lm_bits) == (4, 64, 8)
    assert all(row.notes for row in rows.values())


@pytest.mark.parametrize(
    ("quant", "expected"),
    [
        (Quant(bits=16, block=0), 16.0),
        (Quant(bits=4, block=64), 4.5),
        (Quant(bits=4, block=32), 5.0),
        (Quant(bits=4, block=64, symmetric=True), 4.25),
        (Quant(bits=4, block=64, scale_bits=32), 5.0),
        (Quant(bits=8, block=64), 8.5),
        (Quant(bits=4, block=0), 4.0),
    ],
)
def test_bits_per_weight_count_scales_and_zero_points(quant: Quant, expected: float) -> None:
    assert bits_per_weight(quant) == expected


def test_the_body_of_smollm2_has_the_size_that_was_measured() -> None:
    """59.7 MB of linears without the head at 4 bits, block 64: 30 layers of 4 attention and 3 MLP matrices."""
    hidden, kv, mlp, layers = 576, 192, 1536, 30
    weights = layers * (2 * hidden * hidden + 2 * hidden * kv + 3 * hidden * mlp)
    assert weights * bits_per_weight(Quant()) / 8 == pytest.approx(59.7e6, rel=0.01)

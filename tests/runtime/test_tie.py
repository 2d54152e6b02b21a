"""Where a tied embedding's rows lie."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.errors import StageFailed
from pipeline.runtime.check import check
from pipeline.runtime.tie import tied_rows

LAYOUT = {"lm_head": "lm_head"}
# 8 bits, 49,152 × 576, block 64: a header of 1 + 4 + 1 + 256 bytes, one byte per weight, nine pairs of fp16 per row.
ROWS, WIDTH, BLOCK = 49152, 576, 64
CODES = 262 + ROWS * WIDTH
SCALES = ROWS * (WIDTH // BLOCK) * 2 * 2


def weights(**change: Any) -> dict[str, Any]:
    head = {"external": [1000, CODES, SCALES, 0, 0], "header_bytes": 262, "bits": 8, "block": BLOCK, "scale_bits": 16}
    return {"linears": {"lm_head": {**head, **change}}}


TIED = {"mode": "tied"}


def test_codes_begin_after_the_header_and_scales_after_the_codes() -> None:
    place = tied_rows(LAYOUT, weights(), TIED, "3.6.1", "dict")
    assert place == {
        "weight_offset": 1262,
        "alpha_offset": 1000 + CODES,
        "alpha_size": SCALES,
        "quant_bit": 8,
        "quant_block": 64,
        "alpha_dtype": "fp16",
    }
    assert place["alpha_offset"] - place["weight_offset"] == ROWS * WIDTH  # what the engine counts its rows by
    assert check({"tie_embeddings": place}) == []


def test_the_list_of_five_holds_the_same_numbers() -> None:
    change = {"scale_bits": 32, "external": [1000, CODES, 2 * SCALES, 0, 0]}
    assert tied_rows(LAYOUT, weights(**change), TIED, "3.4.0", "list") == [1262, 1000 + CODES, 2 * SCALES, 8, 64]


def test_a_list_cannot_say_fp16_scales() -> None:
    with pytest.raises(StageFailed, match=r"fp32 only → set quant\.scale_bits=32"):
        tied_rows(LAYOUT, weights(), TIED, "3.4.0", "list")


def test_old_engines_read_no_object() -> None:
    with pytest.raises(StageFailed, match=r"engine 3\.5\.0 reads tie_embeddings as a list only"):
        tied_rows(LAYOUT, weights(scale_bits=32), TIED, "3.5.0", "dict")


def test_fp16_rows_have_neither_header_nor_scales() -> None:
    half = {"external": [7, ROWS * WIDTH * 2, 0, 0, 0], "header_bytes": 0, "bits": 16, "block": 0, "scale_bits": 16}
    for form in ("dict", "list"):
        place = tied_rows(LAYOUT, weights(**half), TIED, "3.6.1", form)
        numbers = list(place.values())[:5] if isinstance(place, dict) else place
        assert numbers == [7, 7 + ROWS * WIDTH * 2, 0, 16, 0]


def test_a_bf16_table_needs_no_key() -> None:
    assert tied_rows(LAYOUT, weights(), {"mode": "separate", "file": "e.bin", "bits": 16}, "3.6.1", "dict") is None


def test_a_quantised_table_of_its_own() -> None:
    table = {
        "mode": "separate",
        "file": "embeddings_int8.bin",
        "bits": 8,
        "block": 64,
        "weight_offset": 0,
        "alpha_offset": ROWS * WIDTH,
        "alpha_size": 2 * SCALES,
        "alpha_dtype": "fp32",
    }
    place = tied_rows(LAYOUT, weights(), table, "3.6.1", "dict")
    assert place == {
        "weight_offset": 0,
        "alpha_offset": ROWS * WIDTH,
        "alpha_size": 2 * SCALES,
        "quant_bit": 8,
        "quant_block": 64,
        "alpha_dtype": "fp32",
    }
    assert check({"tie_embeddings": place}) == []

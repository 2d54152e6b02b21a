"""Headers and places against the byte counts of the engine's reader (MNN 3.6.1, IDSTDecoder)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.weights.layout import Layout, Linear, Part, Table
from pipeline.weights.places import Placement, load_precisions, place, place_tables, places
from pipeline.weights.precision import Precision

NARROW = Linear("narrow", 48, 64, (Part("narrow.weight"),))
WIDE = Linear("wide", 70_000, 64, (Part("wide.weight"),), bias=(Part("wide.bias"),))
TABLES = (Table("first", 3, 8, (Part("first"),)), Table("second", 2, 4, (Part("second"),)))
PRECISIONS = {"narrow": Precision(4, 32), "wide": Precision(16)}


def test_the_header_of_four_bits() -> None:
    codes = bytes([0xF8, 0xF9, 0xFA, 0xFB, 0xFC, 0xFD, 0xFE, 0xFF, 0, 1, 2, 3, 4, 5, 6, 7])
    assert Placement(NARROW, Precision(4, 64), 0).header == b"\x02" + b"\x30\x00" + b"\x40\x00" + b"\x10" + codes


@pytest.mark.parametrize(("bits", "count"), [(2, 4), (3, 8), (5, 32), (8, 256)])
def test_the_header_lists_every_code(bits: int, count: int) -> None:
    header = Placement(NARROW, Precision(bits, 64), 0).header
    assert header[5] == count % 256
    signed = [code - 256 if code > 127 else code for code in header[6:]]
    assert signed == list(range(-count // 2, count // 2))


def test_a_shape_above_sixteen_bits_takes_thirty_two() -> None:
    one = Placement(WIDE, Precision(4, 64), 0)
    assert one.header[:9] == b"\x02" + (70_000).to_bytes(4, "little") + (64).to_bytes(4, "little")
    assert one.entry()["shape_int32"] and not Placement(NARROW, Precision(4, 64), 0).entry()["shape_int32"]


def test_fp16_has_no_header() -> None:
    one = Placement(WIDE, Precision(16), 10)
    assert one.header == b"" and not one.entry()["shape_int32"]
    assert one.entry()["external"] == [10, 2 * 70_000 * 64, 0, 4 * 70_000, 0]


@pytest.mark.parametrize(
    ("precision", "count"),
    [(Precision(4, 32), 384), (Precision(4, 32, True), 192), (Precision(4, 32, scale_bits=32), 768)],
)
def test_scales_and_zeros(precision: Precision, count: int) -> None:
    assert Placement(NARROW, precision, 0).alpha_bytes == count


def test_tables_stand_behind_the_linears() -> None:
    placements = place(Layout((NARROW, WIDE), TABLES), PRECISIONS)
    assert placements[1].offset == placements[0].end == 22 + 48 * 64 // 2 + 48 * 2 * 4
    placed, end = place_tables(TABLES, placements)
    assert [offset for _, offset in placed] == [placements[1].end, placements[1].end + 96]
    assert end == placements[1].end + 96 + 32
    assert place_tables(TABLES, []) == ([(TABLES[0], 0), (TABLES[1], 96)], 128)


def test_precisions_come_back(tmp_path: Path) -> None:
    told = places(Layout((NARROW, WIDE), TABLES), PRECISIONS)
    (tmp_path / "places.json").write_text(json.dumps(told))
    assert load_precisions(tmp_path / "places.json") == PRECISIONS
    odd = {"narrow": Precision(3, 16, True, 32, "gptq"), "wide": Precision(8, 64, False, 16, "hqq")}
    (tmp_path / "places.json").write_text(json.dumps(places(Layout((NARROW, WIDE)), odd)))
    assert load_precisions(tmp_path / "places.json") == odd

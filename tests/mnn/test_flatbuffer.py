"""The reader against files made by the official FlatBuffers builder."""

from __future__ import annotations

import flatbuffers
import numpy as np
import pytest

from pipeline.errors import StageFailed
from pipeline.mnn.flatbuffer import Table, root


def _buffer() -> bytes:
    """A table: slot 0 float, 1 [float], 2 string, 3 [table], 4 absent, 5 byte, 6 [long]."""
    builder = flatbuffers.Builder(0)
    children = []
    for value in (0.25, 1e-12):
        builder.StartObject(1)
        builder.PrependFloat32Slot(0, value, 0.0)
        children.append(builder.EndObject())
    builder.StartVector(4, len(children), 4)
    for child in reversed(children):
        builder.PrependUOffsetTRelative(child)
    tables = builder.EndVector()
    text = builder.CreateString("añb")
    floats = builder.CreateNumpyVector(np.array([1.5, -3e-9], np.float32))
    longs = builder.CreateNumpyVector(np.array([2**40, 7], np.int64))
    builder.StartObject(7)
    builder.PrependFloat32Slot(0, 1e-7, 0.0)
    builder.PrependUOffsetTRelativeSlot(1, floats, 0)
    builder.PrependUOffsetTRelativeSlot(2, text, 0)
    builder.PrependUOffsetTRelativeSlot(3, tables, 0)
    builder.PrependUint8Slot(5, 88, 0)
    builder.PrependUOffsetTRelativeSlot(6, longs, 0)
    builder.Finish(builder.EndObject())
    return bytes(builder.Output())


@pytest.fixture(scope="module")
def table() -> Table:
    return root(_buffer())


def test_reads_a_scalar_float_exactly(table: Table) -> None:
    assert table.float32(0) == float(np.float32(1e-7))


def test_reads_vectors_of_floats_and_longs(table: Table) -> None:
    floats, longs = table.vector(1, "<f4"), table.vector(6, "<i8")
    assert floats is not None
    assert floats.tolist() == [1.5, float(np.float32(-3e-9))]
    assert longs is not None
    assert longs.tolist() == [2**40, 7]


def test_reads_the_place_of_a_string(table: Table) -> None:
    place = table.span(2)
    assert place is not None
    assert bytes(table.buffer)[place[0] : place[0] + place[1]].decode() == "añb"


def test_reads_child_tables_in_order(table: Table) -> None:
    assert [child.float32(0) for child in table.tables(3)] == [0.25, float(np.float32(1e-12))]


def test_reads_a_byte(table: Table) -> None:
    assert table.uint8(5) == 88


@pytest.mark.parametrize("slot", [4, 9, 100])
def test_absent_fields_are_none(table: Table, slot: int) -> None:
    assert table.float32(slot) is None
    assert table.vector(slot, "<f4") is None
    assert table.span(slot) is None
    assert table.table(slot) is None
    assert table.tables(slot) == []
    assert table.uint8(slot) == 0


@pytest.mark.parametrize("size", [0, 3, 10, 20])
def test_a_truncated_file_is_one_clear_line(size: int) -> None:
    with pytest.raises(StageFailed, match="damaged"):
        root(_buffer()[:size]).tables(3)


def test_an_offset_outside_the_file_is_one_clear_line() -> None:
    with pytest.raises(StageFailed, match="damaged"):
        root(b"\xff\xff\xff\x7f" + bytes(20)).float32(0)


def test_a_vector_longer_than_the_file_is_one_clear_line(table: Table) -> None:
    place = table.span(1)
    assert place is not None
    damaged = bytearray(table.buffer)
    damaged[place[0] - 4 : place[0]] = (10**6).to_bytes(4, "little")
    with pytest.raises(StageFailed, match="damaged"):
        root(bytes(damaged)).vector(1, "<f4")

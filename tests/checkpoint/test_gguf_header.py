"""The header against gguf's own writer and reader, and files that are cut, crafted or of another kind."""

from __future__ import annotations

import struct
from pathlib import Path

import gguf
import numpy as np
import pytest

from pipeline.checkpoint.gguf_header import read_header
from pipeline.errors import StageFailed


@pytest.fixture
def path(tmp_path: Path) -> Path:
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    writer.add_uint8("x.u8", 200)
    writer.add_int16("x.i16", -300)
    writer.add_uint64("x.u64", 1 << 40)
    writer.add_float32("x.f32", 0.1)
    writer.add_float64("x.f64", 0.1)
    writer.add_bool("x.bool", True)
    writer.add_string("x.text", "héllo ▁")
    writer.add_array("x.strings", ["a", "bb", ""])
    writer.add_array("x.ints", [1, -2, 3])
    writer.add_array("x.floats", [0.5, -1.5])
    writer.add_tensor("output.weight", np.arange(12, dtype=np.float32).reshape(3, 4))
    writer.add_tensor("output_norm.weight", np.ones(5, np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return tmp_path / "m.gguf"


def test_metadata_of_every_type(path: Path) -> None:
    metadata = read_header(path).metadata
    expected = {
        "general.architecture": "llama", "x.u8": 200, "x.i16": -300, "x.u64": 1 << 40, "x.bool": True,
        "x.f32": float(np.float32(0.1)), "x.f64": 0.1, "x.text": "héllo ▁", "x.strings": ["a", "bb", ""],
        "x.ints": [1, -2, 3], "x.floats": [0.5, -1.5]}  # fmt: skip
    assert {key: metadata[key] for key in expected} == expected


def test_tensors_lie_where_the_library_says(path: Path) -> None:
    header = read_header(path)
    for tensor in gguf.GGUFReader(path).tensors:
        info = header.tensors[tensor.name]
        assert info.offset == tensor.data_offset and info.kind == int(tensor.tensor_type)
        assert info.shape == tuple(int(axis) for axis in reversed(tensor.shape))


def test_alignment_is_respected(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    writer.add_custom_alignment(256)
    writer.add_tensor("output.weight", np.ones((2, 2), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    header = read_header(tmp_path / "m.gguf")
    info = header.tensors["output.weight"]
    assert info.offset % 256 == 0
    assert header.file.read(info.offset, 16).view(np.float32).tolist() == [1, 1, 1, 1]


def test_real_file_in_reasonable_time(smollm2: Path) -> None:
    metadata = read_header(smollm2).metadata
    assert metadata["llama.block_count"] == 30 and metadata["tokenizer.ggml.pre"] == "smollm"
    assert len(metadata["tokenizer.ggml.tokens"]) == 49152 and len(metadata["tokenizer.ggml.merges"]) == 48900
    assert metadata["tokenizer.ggml.merges"][0] == "Ġ t"


@pytest.mark.parametrize("kept", [0, 3, 7, 20, 60, 200])
def test_cut_anywhere_in_the_header(path: Path, kept: int) -> None:
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(StageFailed, match=r"m\.gguf"):
        read_header(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"PK\x03\x04" + bytes(60), "not a GGUF file"),
        (b"GGUF" + struct.pack("<IQQ", 1, 0, 0), "GGUF version 1"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "GGUF version"),  # big-endian
        (b"GGUF" + struct.pack("<IQQ", 3, 1 << 40, 0), "ends inside its header"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1 << 62), "ends inside its header"),
        (b"GGUF" + struct.pack("<IQQQ1sI", 3, 0, 1, 1, b"k", 77), "unknown type 77"),
        (b"GGUF" + struct.pack("<IQQQ1sIIQ", 3, 0, 1, 1, b"k", 9, 8, 1 << 50), "ends inside its header"),
        (b"GGUF" + struct.pack("<IQQQ1sIIQ", 3, 0, 1, 1, b"k", 9, 4, 1 << 50), "ends inside its header"),
    ],
)
def test_crafted_headers_end_in_one_line(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "x.gguf").write_bytes(content)
    with pytest.raises(StageFailed, match=message):
        read_header(tmp_path / "x.gguf")

"""The memos change how often Hugging Face's GGUF reader works, and nothing that it returns."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest

from pipeline.verify.gguf_speed import parsed_once


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(2)
    writer.add_token_list(["a", "é", "你好"])
    writer.add_token_scores([0.5, -1.0, 2.0])
    writer.add_bool("general.flag", True)
    writer.add_tensor("w", np.arange(64, dtype=np.float32).reshape(2, 32), raw_dtype=gguf.GGMLQuantizationType.F32)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_fields_and_tensors_are_those_of_the_plain_reader(file: Path) -> None:
    plain = gguf.GGUFReader(file)
    with parsed_once():
        quick = gguf.GGUFReader(file)
    assert {name: field.contents() for name, field in quick.fields.items()} == {
        name: field.contents() for name, field in plain.fields.items()
    }
    assert [tensor.name for tensor in quick.tensors] == ["w"]
    np.testing.assert_array_equal(quick.tensors[0].data, plain.tensors[0].data)


def test_a_file_is_read_once(file: Path) -> None:
    with parsed_once():
        assert gguf.GGUFReader(str(file)) is gguf.GGUFReader(str(file))
    assert gguf.GGUFReader(str(file)) is not gguf.GGUFReader(str(file))


def test_tensor_names_are_looked_up_once_and_are_the_same() -> None:
    arch = gguf.MODEL_ARCH.LLAMA
    expected = gguf.get_tensor_name_map(arch, 2).mapping
    with parsed_once():
        names = gguf.get_tensor_name_map(arch, 2)
        assert names is gguf.get_tensor_name_map(arch, 2)
        assert names is not gguf.get_tensor_name_map(arch, 3)
    assert names.mapping == expected


def test_gguf_is_itself_again_afterwards_even_after_an_error(file: Path) -> None:
    before = gguf.GGUFReader, gguf.get_tensor_name_map, gguf.gguf_reader.np
    with pytest.raises(FileNotFoundError), parsed_once():
        gguf.GGUFReader(file.with_name("missing.gguf"))
    assert (gguf.GGUFReader, gguf.get_tensor_name_map, gguf.gguf_reader.np) == before

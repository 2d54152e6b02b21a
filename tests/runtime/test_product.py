"""A product's configuration: refused before native code sees it, edited so that it stays valid."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import UserError
from pipeline.runtime.product import (
    check_product,
    edit_product,
    ignored,
    parse_assignment,
    read_product,
    refuse_product,
)

CONFIG: dict[str, Any] = {
    "llm_model": "llm.mnn",
    "llm_weight": "llm.mnn.weight",
    "tokenizer_file": "tokenizer.mtok",
    "thread_num": 2,
}
MODEL: dict[str, Any] = {"hidden_size": 64, "attention_mask": "float"}


@pytest.fixture
def product(tmp_path: Path) -> Path:
    write(tmp_path)
    for name in ("llm.mnn", "llm.mnn.weight", "tokenizer.mtok", "embeddings_bf16.bin"):
        (tmp_path / name).write_bytes(b"x")
    return tmp_path


def write(folder: Path, config: dict[str, Any] | None = None, model: dict[str, Any] | None = None) -> None:
    (folder / "config.json").write_text(json.dumps({**CONFIG, **(config or {})}))
    (folder / "llm_config.json").write_text(json.dumps({**MODEL, **(model or {})}))


def test_a_sound_product_passes(product: Path) -> None:
    assert check_product(product) == []
    refuse_product(product)


@pytest.mark.parametrize(
    ("config", "model", "problem"),
    [
        ({"thread_num": "4"}, {}, "config.json: thread_num must be a whole number, not '4'"),
        ({"threads": 4}, {}, "config.json: threads: the engine reads no such key. Did you mean 'thread_num'?"),
        ({"llm_weight": "../../secret"}, {}, "config.json: llm_weight: '../../secret' leaves the product's folder"),
        ({"base_dir": "/tmp/"}, {}, "base_dir: '/tmp/' leaves the product's folder"),
        ({}, {"base_dir": "../"}, "base_dir: '../' leaves the product's folder"),
        ({}, {"hidden_size": -5}, "llm_config.json: hidden_size must be at least 1"),
        ({}, {"hidden_size": 1e9}, "llm_config.json: hidden_size must be a whole number"),
        ({}, {"load_disk_embedding_only": 1}, "llm_config.json: load_disk_embedding_only must be true or false"),
        ({"llm_model": "other.mnn"}, {}, "llm_model: other.mnn is missing"),
        ({"tokenizer_file": "."}, {}, "tokenizer_file: . is missing"),
        ({}, {"is_visual": True}, "visual_model: visual.mnn is missing"),
    ],
)
def test_a_wrong_configuration_is_named(
    product: Path, config: dict[str, Any], model: dict[str, Any], problem: str
) -> None:
    write(product, config, model)
    assert check_product(product)[0].startswith(problem)
    with pytest.raises(UserError, match="mend the file, or export the product again"):
        refuse_product(product)


def test_names_that_nothing_reads_are_told_and_let_be(product: Path) -> None:
    write(product, {"quant_qkv": 1}, {"model_type": "llama", "is_single": True})
    assert check_product(product) == []
    assert [line.split()[0].rstrip(":") for line in ignored(product)] == ["quant_qkv", "model_type", "is_single"]


def test_a_missing_hidden_size_is_named(product: Path) -> None:
    (product / "llm_config.json").write_text("{}")
    assert check_product(product) == ["llm_config.json: hidden_size is missing"]


def test_the_embeddings_file_is_needed_only_if_it_is_read(product: Path) -> None:
    (product / "embeddings_bf16.bin").unlink()
    assert check_product(product) == ["embedding_file: embeddings_bf16.bin is missing"]
    tie = {"weight_offset": 22, "alpha_offset": 99, "alpha_size": 4, "quant_bit": 8, "quant_block": 64}
    write(product, model={"tie_embeddings": tie})
    assert check_product(product) == []
    write(product, model={"tie_embeddings": {**tie, "weight_offset": 0}})
    assert check_product(product) == ["embedding_file: embeddings_bf16.bin is missing"]
    write(product, model={"tie_embeddings": [22, 99, 4, 8, 64]})
    assert check_product(product) == []


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "is not valid JSON"),
        (b"{", "is not valid JSON"),
        (b"[]", "must hold a JSON object"),
        (b'{"temperature": NaN}', "is not valid JSON: NaN is no JSON number"),
        (b"\xff\xfe", "is not valid JSON"),
        (b"[" * 100_000, "is not valid JSON"),
        (b" " * (17 << 20), "that is no configuration"),
    ],
)
def test_a_malformed_file_is_one_line(product: Path, content: bytes, problem: str) -> None:
    (product / "config.json").write_bytes(content)
    with pytest.raises(UserError) as error:
        check_product(product)
    assert problem in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_file_is_named(product: Path) -> None:
    (product / "llm_config.json").unlink()
    with pytest.raises(UserError, match=r"llm_config\.json is missing"):
        check_product(product)
    with pytest.raises(UserError, match=r"nowhere/config\.json is missing → give a folder that `doit export` wrote"):
        check_product(Path("/nowhere"))


def test_llm_config_elsewhere_in_the_product_is_found(product: Path) -> None:
    (product / "llm_config.json").rename(product / "model.json")
    write_config = {**CONFIG, "llm_config": "model.json"}
    (product / "config.json").write_text(json.dumps(write_config))
    assert check_product(product) == []
    (product / "config.json").write_text(json.dumps({**CONFIG, "llm_config": "../model.json"}))
    with pytest.raises(UserError, match="leaves the product's folder"):
        check_product(product)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("reuse_kv=true", ("reuse_kv", True)),
        ("temperature=1", ("temperature", 1)),
        ("temperature=0.7", ("temperature", 0.7)),
        ("system_prompt=You are brief.", ("system_prompt", "You are brief.")),
        ("system_prompt=a=b", ("system_prompt", "a=b")),
        ("tmp_path=123", ("tmp_path", "123")),
        ('mixed_samplers=["topK","temperature"]', ("mixed_samplers", ["topK", "temperature"])),
        ("quant_qkv=1", ("attention_mode", 9)),
    ],
)
def test_assignments_are_read_by_the_keys_type(text: str, expected: tuple[str, Any]) -> None:
    assert parse_assignment(text) == expected


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("reuse_kv", "'reuse_kv' is not of the form key=value"),
        ("reuse=true", "the engine reads no key 'reuse'. Did you mean 'reuse_kv'?"),
        ("reuse_kv=yes", "reuse_kv=yes: the value is not JSON"),
        ("reuse_kv=1", "config.reuse_kv must be true or false, not 1"),
        ("thread_num=0", "config.thread_num must be at least 1"),
        ("is_single=true", "is_single: models split"),
    ],
)
def test_a_wrong_assignment_is_one_line(text: str, problem: str) -> None:
    with pytest.raises(UserError) as error:
        parse_assignment(text)
    assert str(error.value).startswith(problem)


def test_an_edit_lands_in_the_file_where_the_key_belongs(product: Path) -> None:
    edit_product(product, {"reuse_kv": True, "thread_num": None, "sliding_window": 16})
    config, model = read_product(product)
    assert config == {
        "llm_model": "llm.mnn",
        "llm_weight": "llm.mnn.weight",
        "tokenizer_file": "tokenizer.mtok",
        "reuse_kv": True,
    }
    assert model == {**MODEL, "sliding_window": 16}


def test_an_edit_of_a_key_that_llm_config_overrides_goes_there(product: Path) -> None:
    write(product, model={"thread_num": 4})
    edit_product(product, {"thread_num": 8})
    assert read_product(product)[1]["thread_num"] == 8


@pytest.mark.parametrize(
    "wrong", [{"thread_num": 0}, {"nonsense": 1}, {"llm_model": "gone.mnn"}, {"hidden_size": None}]
)
def test_a_wrong_edit_changes_nothing(product: Path, wrong: dict[str, Any]) -> None:
    before = {file.name: file.read_bytes() for file in product.iterdir()}
    with pytest.raises(UserError):
        edit_product(product, wrong)
    assert {file.name: file.read_bytes() for file in product.iterdir()} == before

"""Products whose files do not belong together are found before the engine sees them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import UserError
from pipeline.mnn.runner.product import ProductError, external_end, open_product, read_stop_ids


@pytest.fixture
def copy(product: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(product, tmp_path / "copy"))


def _edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_whole_product(product: Path) -> None:
    opened = open_product(product)
    assert opened.vocab_size == 300
    assert opened.stop_ids == (257,)
    assert opened.config["hidden_size"] == 64
    assert opened.file("llm_model", "x") == product / "llm.mnn"


def test_llm_config_wins_over_config(copy: Path) -> None:
    _edit(copy / "config.json", attention_mask="int")
    assert open_product(copy).config["attention_mask"] == "float"


def test_the_end_of_the_weights_is_the_files_size(product: Path) -> None:
    """The writer of the tests leaves no gap behind the last matrix."""
    assert external_end((product / "llm.mnn").read_bytes()) == (product / "llm.mnn.weight").stat().st_size


def test_one_byte_too_few(copy: Path) -> None:
    weight = copy / "llm.mnn.weight"
    weight.write_bytes(weight.read_bytes()[:-1])
    with pytest.raises(ProductError, match=r"llm\.mnn\.weight has [\d,]+ bytes, but llm\.mnn reads"):
        open_product(copy)


@pytest.mark.parametrize(
    "name", ["llm.mnn", "llm.mnn.weight", "tokenizer.txt", "embeddings_bf16.bin", "llm_config.json"]
)
def test_a_missing_file_is_named(copy: Path, name: str) -> None:
    (copy / name).unlink()
    with pytest.raises(ProductError, match=rf"{name} is missing"):
        open_product(copy)


@pytest.mark.parametrize("name", ["llm.mnn", "llm.mnn.weight", "tokenizer.txt"])
def test_an_empty_file_is_named(copy: Path, name: str) -> None:
    (copy / name).write_bytes(b"")
    with pytest.raises(ProductError, match=rf"{name} is missing or empty"):
        open_product(copy)


@pytest.mark.parametrize("text", ["", "{", "[]", "3"])
@pytest.mark.parametrize("name", ["config.json", "llm_config.json"])
def test_a_config_that_is_no_object_is_named(copy: Path, name: str, text: str) -> None:
    (copy / name).write_text(text)
    with pytest.raises(ProductError, match=rf"{name} is not"):
        open_product(copy)


def test_no_product_at_all(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no config\.json"):
        open_product(tmp_path)


@pytest.mark.parametrize("hidden", [None, 0, -4, "64"])
def test_a_product_without_a_width(copy: Path, hidden: Any) -> None:
    _edit(copy / "llm_config.json", hidden_size=hidden)
    with pytest.raises(ProductError, match="hidden_size"):
        open_product(copy)


def test_an_embedding_of_another_width(copy: Path) -> None:
    _edit(copy / "llm_config.json", hidden_size=65)
    with pytest.raises(ProductError, match="no multiple of 130 bytes"):
        open_product(copy)


def _tied(**changes: Any) -> dict[str, Any]:
    """int8 rows, block 64, fp16 scales of 300 x 64 at the end of the tests' weight file's size."""
    entry = {"weight_offset": 1000, "alpha_offset": 1000 + 300 * 64, "alpha_size": 1200, "quant_bit": 8}
    return {**entry, "quant_block": 64, **changes}


def test_a_tied_embedding_says_the_vocabularys_size(copy: Path) -> None:
    (copy / "embeddings_bf16.bin").unlink()
    _edit(copy / "llm_config.json", tie_embeddings=_tied())
    assert open_product(copy).vocab_size == 300


def test_the_older_list_form_is_read_too(copy: Path) -> None:
    _edit(copy / "llm_config.json", tie_embeddings=[1000, 1000 + 300 * 32, 1200, 4, 64])
    assert open_product(copy).vocab_size == 300


@pytest.mark.parametrize(
    "tied",
    [_tied(alpha_offset=1000), _tied(alpha_offset=1001), _tied(alpha_size=10**9), _tied(quant_bit=0), {"a": 1}, [1, 2]],
)
def test_a_tied_embedding_that_does_not_fit(copy: Path, tied: Any) -> None:
    _edit(copy / "llm_config.json", tie_embeddings=tied)
    with pytest.raises(ProductError, match="tie_embeddings"):
        open_product(copy)


@pytest.mark.parametrize(
    ("head", "expected"),
    [("430 4\n3 2 1\n9 8 7 6 5 4\n", (6, 5)), ("430 3\n0 0 0\n\n", ()), ("430 0\n0 1 0\n2\nrest", (2,))],
)
def test_stop_ids(tmp_path: Path, head: str, expected: tuple[int, ...]) -> None:
    (tmp_path / "tokenizer.txt").write_text(head)
    assert read_stop_ids(tmp_path / "tokenizer.txt") == expected


@pytest.mark.parametrize("head", ["", "431 4\n0 0 0\n\n", "430 9\n0 0 0\n\n", "430 4\n1 1 0\n5\n", "\x00\x01\n\n\n"])
def test_what_is_no_tokenizer(tmp_path: Path, head: str) -> None:
    (tmp_path / "tokenizer.txt").write_text(head)
    with pytest.raises(ProductError, match="tokenizer"):
        read_stop_ids(tmp_path / "tokenizer.txt")


def test_how_many_positions_a_product_knows(copy: Path) -> None:
    assert open_product(copy).positions == 512
    config = json.loads((copy / "llm_config.json").read_text())
    del config["max_position_embeddings"]
    (copy / "llm_config.json").write_text(json.dumps(config))
    assert open_product(copy).positions == 0
    (copy / "manifest.json").write_text(json.dumps({"config": {"model": {"context_length": 128}}}))
    assert open_product(copy).positions == 128


def test_a_model_without_a_config(copy: Path) -> None:
    """MNN's "without config.json": the two names follow from the model's."""
    (copy / "config.json").unlink()
    opened = open_product(copy / "llm.mnn")
    assert (opened.vocab_size, opened.file("llm_weight", "").name) == (300, "llm.mnn.weight")


@pytest.mark.parametrize(
    ("file", "changes"),
    [
        ("config.json", {"tokenizer_file": "/etc/passwd"}),
        ("config.json", {"llm_config": "../llm_config.json"}),
        ("llm_config.json", {"llm_weight": "../x"}),
        ("llm_config.json", {"base_dir": "/etc/"}),
    ],
)
def test_a_file_outside_the_folder_is_not_even_opened(copy: Path, file: str, changes: dict[str, str]) -> None:
    _edit(copy / file, **changes)
    with pytest.raises(UserError, match="leaves the product's folder"):
        open_product(copy)

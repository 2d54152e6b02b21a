"""Which files are taken, by name alone."""

from __future__ import annotations

import json

import pytest

from pipeline.errors import UserError
from pipeline.source.select import gguf_parts, inside, select_files

BASE = ["config.json", "tokenizer.json"]


def select(names: list[str], index: object = None, remote_code: bool = False, allow_pickle: bool = False) -> list[str]:
    content = index if isinstance(index, bytes) else json.dumps(index).encode()
    return select_files(names, lambda _name: content, "here", remote_code, allow_pickle)


def test_single_file_goes_before_everything_else() -> None:
    names = [*BASE, "model.safetensors", "consolidated.safetensors", "pytorch_model.bin", "model.gguf", "README.md"]
    assert select(names) == ["config.json", "model.safetensors", "tokenizer.json"]


def test_index_names_the_shards() -> None:
    index = {"weight_map": {"a": "x-1.safetensors", "b": "x-2.safetensors", "c": "x-1.safetensors"}}
    names = [*BASE, "model.safetensors.index.json", "x-1.safetensors", "x-2.safetensors", "y.safetensors"]
    assert select(names, index) == sorted(set(names) - {"y.safetensors"})


def test_one_file_of_another_name_is_enough() -> None:
    assert "weights.safetensors" in select([*BASE, "weights.safetensors", "consolidated.safetensors"])


def test_all_tokenizer_forms_are_taken() -> None:
    names = ["tokenizer.model", "vocab.json", "merges.txt", "qwen.tiktoken", "chat_template.jinja",
             "special_tokens_map.json", "added_tokens.json", "vocab.txt", "spiece.model"]  # fmt: skip
    assert set(names) < set(select([*names, "model.safetensors"]))


def test_folders_below_are_left_alone() -> None:
    assert select(["model.safetensors", "original/config.json", "onnx/model.safetensors"]) == ["model.safetensors"]


def test_code_only_when_trusted() -> None:
    names = ["model.safetensors", "modeling_own.py"]
    assert select(names) == ["model.safetensors"]
    assert select(names, remote_code=True) == sorted(names)


def test_gguf_when_there_is_nothing_else() -> None:
    assert select(["a.gguf", "README.md"]) == ["a.gguf"]
    parts = ["a-00001-of-00002.gguf", "a-00002-of-00002.gguf"]
    assert select(parts) == parts


def test_gguf_parts() -> None:
    assert gguf_parts("m-00002-of-00003.gguf") == [f"m-0000{i}-of-00003.gguf" for i in (1, 2, 3)]
    assert gguf_parts("m.gguf") is None


def test_pickles_when_allowed() -> None:
    assert select(["pytorch_model.bin"], allow_pickle=True) == ["pytorch_model.bin"]
    index = {"weight_map": {"a": "pytorch_model-1.bin", "b": "pytorch_model-2.bin"}}
    names = ["pytorch_model-1.bin", "pytorch_model-2.bin", "pytorch_model.bin.index.json"]
    assert select(names, index, allow_pickle=True) == names


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["pytorch_model.bin"], "the weights are pickles"),
        (["config.json"], "no weights there"),
        (["consolidated.safetensors"], "no weights there"),
        (["a.safetensors", "b.safetensors"], "several .safetensors files"),
        (["a.gguf", "b.gguf"], "several GGUF files"),
    ],
)
def test_what_cannot_be_taken(names: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        select(names)
    assert caught.value.next_step


@pytest.mark.parametrize(
    ("index", "message"),
    [
        (b"version https://git-lfs", "not a weight index"),
        ({"other": 1}, "not a weight index"),
        ([], "not a weight index"),
        ({"weight_map": {"a": "gone.safetensors"}}, "gone.safetensors, which is not there"),
        ({"weight_map": {"a": "/etc/passwd"}}, "outside the model's folder"),
        ({"weight_map": {"a": "../x.safetensors"}}, "outside the model's folder"),
        ({"weight_map": {"a": 3}}, "names a file 3"),
    ],
)
def test_bad_index(index: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        select(["model.safetensors.index.json", "x.safetensors"], index)


@pytest.mark.parametrize("name", ["/a", "../a", "a/../../b", "", "a\\b", "a\0b", 3, None])
def test_names_that_leave(name: object) -> None:
    with pytest.raises(UserError):
        inside(name, "here")


def test_names_that_stay() -> None:
    assert inside("a/b.safetensors", "here") == "a/b.safetensors"

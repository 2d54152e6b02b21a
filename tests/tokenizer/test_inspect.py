"""What a person sees: the tokenizer of a product, and a text's tokens side by side."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from pipeline.__main__ import main
from pipeline.build.store import Record, Store
from pipeline.errors import UserError
from pipeline.tokenizer.build import write
from pipeline.tokenizer.folder import TokenizerFolder
from pipeline.tokenizer.inspect import describe, side_by_side

from . import tiny


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(product, checkpoint)."""
    product = tmp_path_factory.mktemp("product")
    checkpoint = tiny.save(tiny.gpt2(), tmp_path_factory.mktemp("checkpoint"), {"eos_token": "</s>"}, "{{ 'x' }}\n")
    write(TokenizerFolder.open(checkpoint), product)
    return product, checkpoint


def test_describe_names_everything(folders: tuple[Path, Path]) -> None:
    text = "\n".join(describe(folders[0]))
    for part in (
        "byte-level BPE in tokenizer.mtok, 900 ids",
        "<|im_start|> 3",
        "2 (tokenizer_config.json)",
        "rewritten for the engine",
        "rewritten: a final newline",
        "limit       a text ends at U+0000",
        "  | {{ 'x' }}",
    ):
        assert part in text


def test_tokens_side_by_side(folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    product, checkpoint = folders
    assert main(["tokens", str(product), "the 🫠", "--checkpoint", str(checkpoint)]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split(maxsplit=1) == ["engine", "Hugging Face"]
    ids = tiny.ids(tiny.gpt2(), ["the 🫠"])[0]
    assert [int(line[1:].split()[0]) for line in lines] == ids
    assert all(
        line[0] == " " and line.rstrip().endswith(tiny.gpt2().id_to_token(index))
        for line, index in zip(lines, ids, strict=True)
    )
    assert any("bytes f0" in line for line in lines)


def test_hugging_face_s_side_comes_from_the_store(
    folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As an export leaves it: the product under artifacts/, the store in .cache beside it."""
    product, store = tmp_path / "product", Store(tmp_path / ".cache")
    shutil.copytree(folders[0], product)
    store.create()
    copy = store.scratch("checkpoint")
    shutil.copytree(folders[1], copy, dirs_exist_ok=True)
    store.publish(Record("ab" * 32, "checkpoint", "x", {}, store.take(copy)))
    facts = json.loads((product / "tokenizer.json").read_text(encoding="utf-8"))
    manifest = {"tokenizer": facts, "stages": {"checkpoint": {"key": "ab" * 32}}}
    (product / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    assert main(["tokens", str(product), "the"]) == 0
    out = capsys.readouterr().out
    assert "Hugging Face" in out.splitlines()[0]
    assert out.splitlines()[1].rstrip().endswith(tiny.gpt2().encode("the").tokens[0])
    blob = next(blob for name, blob in store.find("checkpoint", "ab" * 32).files.items() if name == "tokenizer.json")  # type: ignore[union-attr]
    store.blob_path(blob.sha256).unlink()
    assert main(["tokens", str(product), "the"]) == 0
    assert "--checkpoint FOLDER" in capsys.readouterr().out


def test_differences_are_marked(folders: tuple[Path, Path], tmp_path: Path) -> None:
    other = tiny.save(tiny.smol(), tmp_path)
    assert any(line.startswith("!") for line in side_by_side(folders[0], "12345 words", other))


def test_wrong_requests_are_one_line(folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tokens", "/nowhere", "x"]) == 3
    assert "/nowhere is not a folder" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"U\+0000"):
        side_by_side(folders[0], "a\0b")

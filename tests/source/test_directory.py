"""Local folders and GGUF files."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import UserError
from pipeline.source.digest import DigestMemo, sha256_of
from pipeline.source.directory import from_path

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 134\n"


@pytest.fixture
def memo(tmp_path: Path) -> DigestMemo:
    return DigestMemo(tmp_path / "cache")


def test_folder_lists_needed_files_with_digests(folder: Path, memo: DigestMemo) -> None:
    listing = from_path(str(folder), memo)
    assert "README.md" not in listing.files and "pytorch_model.bin" not in listing.files
    for name, file in listing.files.items():
        assert file.path == (folder / name).resolve()
        assert (file.size, file.sha256) == ((folder / name).stat().st_size, sha256_of(folder / name))


def test_digest_depends_on_content_and_not_on_the_place(folder: Path, memo: DigestMemo, tmp_path: Path) -> None:
    before = from_path(str(folder), memo).digest
    moved = folder.rename(tmp_path / "elsewhere")
    assert from_path(str(moved), memo).digest == before
    (moved / "config.json").write_bytes(b'{"model_type": "qwen2"}')
    assert from_path(str(moved), memo).digest != before


def test_home_is_expanded(folder: Path, memo: DigestMemo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder.parent))
    assert from_path("~/model", memo).files


def test_path_that_is_not_there_names_the_nearest(folder: Path, memo: DigestMemo) -> None:
    with pytest.raises(UserError, match=r"there is nothing at .*Did you mean 'model'"):
        from_path(str(folder.parent / "modle"), memo)


def test_folder_without_config(folder: Path, memo: DigestMemo) -> None:
    (folder / "config.json").unlink()
    with pytest.raises(UserError, match=r"no config\.json"):
        from_path(str(folder), memo)


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_git_lfs_pointer(folder: Path, memo: DigestMemo, name: str) -> None:
    (folder / name).write_bytes(POINTER)
    with pytest.raises(UserError, match="Git LFS pointer") as caught:
        from_path(str(folder), memo)
    assert "lfs pull" in caught.value.next_step and name in caught.value.message


def test_pickles_only(folder: Path, memo: DigestMemo) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match="pickles"):
        from_path(str(folder), memo)
    assert "pytorch_model.bin" in from_path(str(folder), memo, allow_pickle=True).files


def test_file_that_is_no_gguf(folder: Path, memo: DigestMemo) -> None:
    with pytest.raises(UserError, match=r"not a \.gguf"):
        from_path(str(folder / "config.json"), memo)


def test_gguf_file_and_folder_with_one(tmp_path: Path, memo: DigestMemo) -> None:
    root = tmp_path / "m"
    root.mkdir()
    (root / "m.gguf").write_bytes(b"GGUF")
    assert list(from_path(str(root / "m.gguf"), memo).files) == ["m.gguf"]
    assert list(from_path(str(root), memo).files) == ["m.gguf"]


def test_split_gguf_comes_whole(tmp_path: Path, memo: DigestMemo) -> None:
    names = [f"m-0000{i}-of-00003.gguf" for i in (1, 2, 3)]
    for name in names:
        (tmp_path / name).write_bytes(name.encode())
    assert list(from_path(str(tmp_path / names[1]), memo).files) == names
    (tmp_path / names[2]).unlink()
    with pytest.raises(UserError, match="part of the split GGUF is missing"):
        from_path(str(tmp_path / names[0]), memo)

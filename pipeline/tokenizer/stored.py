"""The Hugging Face tokenizer that a product was made from, as the store beside the product still has it."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path

from pipeline.build.store import Store

NAMES = ("*token*", "*config.json", "*.jinja", "vocab.*", "merges.txt", "*.tiktoken")
STORE = ".cache"


@contextmanager
def stored_checkpoint(product: Path, store: Path | None = None) -> Iterator[Path | None]:
    """A folder with the checkpoint's tokenizer files while the block runs; None if the store has them no more.

    store: the store's folder if it is not `.cache` beside the product. The manifest says which checkpoint it was, and
    every file is hashed before it is used.
    """
    there = Store(store or product.resolve().parent / STORE)
    record = there.find("checkpoint", _key(product))
    blobs = {name: blob for name, blob in record.files.items() if _is_tokenizer(name)} if record else {}
    if not blobs or not all(there.verified(blob) for blob in blobs.values()):
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="checkpoint-") as folder:
        for name, blob in blobs.items():
            (Path(folder) / name).symlink_to(there.blob_path(blob.sha256).resolve())
        yield Path(folder)


def _key(product: Path) -> str:
    """The action key of the checkpoint stage; "-" (no record's name) for a product without a manifest of ours."""
    try:
        manifest = json.loads((product / "manifest.json").read_text(encoding="utf-8"))
        return str(manifest["stages"]["checkpoint"]["key"])
    except (OSError, ValueError, KeyError, TypeError):
        return "-"


def _is_tokenizer(name: str) -> bool:
    return "/" not in name and any(fnmatch(name, pattern) for pattern in NAMES)

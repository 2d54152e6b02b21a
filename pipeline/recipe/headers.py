"""Names and shapes of a model's tensors, where its files are here already: from the files' headers, no weight read.

Nothing is fetched, and what cannot be read is no error here: the source stage says so better. A safetensors header is
read each time (JSON, as quick as a memo would be); a GGUF's, which the vocabulary makes long, is kept by the file's
path, size and modification time.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import PipelineError
from pipeline.recipe.schema import Model

MAX_HEADER = 100_000_000  # the format's own limit
FLOATS = ("F64", "F32", "F16", "BF16")


@dataclass(frozen=True)
class Headers:
    """shapes: Hugging Face name → shape, in a quantised checkpoint as they are stored. plain: whether all matrices are
    stored in their own shapes (floats, or GGUF's types). layers: the decoder's, by config.json; None if not known."""

    shapes: Mapping[str, tuple[int, ...]]
    plain: bool
    layers: int | None = None


def read_headers(model: Model, store: Path) -> Headers | None:
    """The headers of `recipe.model`; None if it is not here, or not readable by its headers alone. store: for memos."""
    with contextlib.suppress(PipelineError, OSError, ValueError, KeyError, TypeError, AttributeError, struct.error):
        place = _place(model, store)
        if place is None:
            return None
        if place.suffix == ".gguf":
            return _gguf([place], store)
        return _folder(place, model, store)
    return None


def _place(model: Model, store: Path) -> Path | None:
    """The model's folder or .gguf file, found as `pipeline.source` does."""
    if model.path:
        return Path(model.path)
    if model.hub == "package":
        import importlib.metadata

        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found = importlib.metadata.distribution(model.package.distribution)
            return Path(str(found.locate_file(model.package.file)))
    if model.hub in ("huggingface", "modelscope"):
        from pipeline.source.snapshot import SnapshotRecords

        scope = model.hub == "modelscope"
        repo = (model.modelscope_repo or model.repo) if scope else model.repo
        revision = "master" if scope and model.revision == "main" else model.revision
        return SnapshotRecords(store, model.hub, repo, (model.trust_remote_code, model.allow_pickle)).folder(revision)
    return None


def _folder(folder: Path, model: Model, store: Path) -> Headers | None:
    from pipeline.source.select import select_files

    names = sorted(entry.name for entry in folder.iterdir() if entry.is_file())
    chosen = select_files(
        names, lambda name: (folder / name).read_bytes(), str(folder), model.trust_remote_code, model.allow_pickle
    )
    if parts := [folder / name for name in chosen if name.endswith(".gguf")]:
        return _gguf(parts, store)
    files = [folder / name for name in chosen if name.endswith(".safetensors")]
    entries = {name: entry for file in files for name, entry in _safetensors(file).items()}
    if not entries:
        return None
    config = json.loads((folder / "config.json").read_text("utf-8"))
    text = config.get("text_config") or config
    return Headers(
        {name: tuple(map(int, entry["shape"])) for name, entry in entries.items()},
        plain=not config.get("quantization_config") and all(entry["dtype"] in FLOATS for entry in entries.values()),
        layers=text.get("num_hidden_layers"),
    )


def _safetensors(path: Path) -> dict[str, Any]:
    """The header: an 8-byte little-endian length, then JSON (safetensors' README, "Format")."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        if length > MAX_HEADER:
            raise ValueError(f"a header of {length} bytes")
        header: dict[str, Any] = json.loads(file.read(length))
    header.pop("__metadata__", None)
    return header


def _gguf(paths: Sequence[Path], store: Path) -> Headers:
    shapes: dict[str, tuple[int, ...]] = {}
    for path in paths:
        shapes |= {name: tuple(shape) for name, shape in _remembered(path, store).items()}
    return Headers(shapes, plain=True)


def _remembered(path: Path, store: Path) -> Mapping[str, Sequence[int]]:
    status = path.stat()
    state = [str(path), status.st_size, status.st_mtime_ns]
    entry = store / "headers" / f"{hashlib.sha256(str(path).encode()).hexdigest()[:32]}.json"
    with contextlib.suppress(OSError, ValueError, KeyError):
        known = json.loads(entry.read_text("utf-8"))
        if known["state"] == state:
            return dict(known["shapes"])
    shapes = _read_gguf(path)
    with contextlib.suppress(OSError):  # a full disk costs only time
        entry.parent.mkdir(parents=True, exist_ok=True)
        temporary = entry.with_suffix(f".{os.getpid()}.tmp")
        temporary.write_text(json.dumps({"state": state, "shapes": shapes}), "utf-8")
        os.replace(temporary, entry)
    return shapes


def _read_gguf(path: Path) -> dict[str, Sequence[int]]:
    from pipeline.checkpoint.gguf_header import read_header
    from pipeline.checkpoint.gguf_names import architecture, huggingface_name

    header = read_header(path)
    table = architecture(str(header.metadata.get("general.architecture")))
    named = {huggingface_name(name, table): info.shape for name, info in header.tensors.items()}
    return {name: shape for name, shape in named.items() if name is not None}

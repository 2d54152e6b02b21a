"""One way in: a source folder (and adapters) as a checkpoint of lazily read tensors under Hugging Face names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pipeline.checkpoint.gguf import open_gguf
from pipeline.checkpoint.safetensors import read_shards
from pipeline.checkpoint.tensor import Checkpoint
from pipeline.errors import StageFailed

INDEX = "model.safetensors.index.json"


def open_checkpoint(source: Path) -> Checkpoint:
    """The tensors of a model's files (safetensors, single or sharded; GGUF, single or split), none of them read.

    Raises StageFailed for missing, truncated, overlapping or unknown files.
    """
    if gguf := gguf_files(source):
        return open_gguf(gguf)
    shards = sorted(path for path in source.iterdir() if path.suffix == ".safetensors")
    if not shards:
        raise StageFailed(f"no weights in {source.name}", "check model.path or model.repo")
    index = source / INDEX
    weight_map = read_json(index)["weight_map"] if index.is_file() and len(shards) > 1 else None
    return read_shards(shards, weight_map)


def gguf_files(source: Path) -> list[Path]:
    """The GGUF files of a source folder, sorted; [] for a Hugging Face folder."""
    return sorted(path for path in source.iterdir() if path.suffix == ".gguf")


def read_json(path: Path) -> Any:
    """A JSON file's content; StageFailed when it is not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, UnicodeDecodeError) as error:
        raise StageFailed(f"{path.name} is not JSON ({error})", "download or copy it again") from error

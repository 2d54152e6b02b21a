"""One way in: a source folder (and adapters) as a checkpoint of lazily read tensors under Hugging Face names."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.checkpoint.gguf import open_gguf
from pipeline.checkpoint.safetensors import read_shards
from pipeline.checkpoint.tensor import Checkpoint
from pipeline.errors import StageFailed

INDEX = "model.safetensors.index.json"


def open_model(config: Mapping[str, Any], inputs: Mapping[str, Path]) -> Checkpoint:
    """What a stage needs: the source with all that the recipe does to its weights.

    config: the stage's own, of which `adapter.mode` and `adapter.weight` are read. inputs: "source", and "adapter" if
    there is one. A split adapter changes no weight of the base product.
    """
    adapter = config.get("adapter") or {}
    merged = adapter.get("mode") == "merge"
    return open_checkpoint(inputs["source"], inputs["adapter"] if merged else None, float(adapter.get("weight") or 1.0))


def open_checkpoint(source: Path, adapter: Path | None = None, adapter_weight: float = 1.0) -> Checkpoint:
    """The tensors of a model's files (safetensors, single or sharded; GGUF, single or split), none of them read.

    adapter: a folder of LoRA adapters to merge, or None. Raises StageFailed for missing, truncated, overlapping or
    unknown files.
    """
    if adapter is not None and any(adapter.rglob("adapter_config.json")):
        raise StageFailed("adapter=merge is not built yet", "use adapter=none")
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

"""One way in: a source folder (and adapters) as a checkpoint of lazily read tensors under Hugging Face names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.checkpoint.files import read_json
from pipeline.checkpoint.gguf import open_gguf
from pipeline.checkpoint.lora import merge_adapters
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
    base = open_source(source)
    return base if adapter is None else merge_adapters(base, adapter, adapter_weight)


def open_source(source: Path) -> Checkpoint:
    """The tensors of the source alone. Raises StageFailed as `open_checkpoint` does."""
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

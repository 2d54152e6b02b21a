"""One way in: a source folder (and adapters) as a checkpoint of lazily read tensors under Hugging Face names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.checkpoint.files import read_json
from pipeline.checkpoint.gguf import open_gguf
from pipeline.checkpoint.gptq import overlay_gptq
from pipeline.checkpoint.lora import merge_adapters
from pipeline.checkpoint.pickled import read_pickled
from pipeline.checkpoint.quantised import dequantised, quantisation_config
from pipeline.checkpoint.safetensors import read_shards
from pipeline.checkpoint.tensor import Checkpoint, FileTensor
from pipeline.errors import StageFailed

INDEX = "model.safetensors.index.json"
GPTQ_FOLDER = "gptq"


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
    """The tensors of the source alone, with model.gptq_path's in their places if the folder has them beside it."""
    base = _open_folder(source)
    gptq = source / GPTQ_FOLDER
    return overlay_gptq(base, _open_folder(gptq)) if gptq.is_dir() else base


def _open_folder(folder: Path) -> Checkpoint:
    if gguf := gguf_files(folder):
        return open_gguf(gguf)
    shards = sorted(path for path in folder.iterdir() if path.suffix == ".safetensors")
    if not shards:
        return dequantised(_pickled(folder), _quantisation(folder))
    index = folder / INDEX
    weight_map = read_json(index)["weight_map"] if index.is_file() and len(shards) > 1 else None
    return dequantised(read_shards(shards, weight_map), _quantisation(folder))


def _pickled(folder: Path) -> Mapping[str, FileTensor]:
    """Pickles are among a source's files only where model.allow_pickle let them in; they are read, never run."""
    paths = [path for path in folder.iterdir() if path.suffix in (".bin", ".pt", ".pth")]
    if not paths:
        raise StageFailed(f"no weights in {folder.name}", "check model.path or model.repo")
    return read_pickled(paths)


def _quantisation(folder: Path) -> Mapping[str, Any] | None:
    config, beside = folder / "config.json", folder / "quantize_config.json"
    return quantisation_config(
        read_json(config) if config.is_file() else {}, read_json(beside) if beside.is_file() else None
    )


def gguf_files(source: Path) -> list[Path]:
    """The GGUF files of a source folder, sorted; [] for a Hugging Face folder."""
    return sorted(path for path in source.iterdir() if path.suffix == ".gguf")

"""LoRA adapters that stay apart from the base (`adapter=split`): what each adds to which tensor.

An adapter is read and checked exactly as for a merge; but only low-rank differences of linears, and shifts of their
biases, can stand beside the base at run time.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.checkpoint.changes import Change, Dora, LowRank, Replacement, Shift
from pipeline.checkpoint.lora import adapter_changes, check_targets, read_modules
from pipeline.checkpoint.lora_config import read_config
from pipeline.checkpoint.lora_names import embedding_name
from pipeline.checkpoint.tensor import Array, LazyTensor
from pipeline.errors import StageFailed

MERGE = "use adapter=merge, which can"


@dataclass(frozen=True)
class Outline:
    """A tensor of which only shape and type are known: all that checking an adapter needs of its base."""

    shape: tuple[int, ...]
    dtype: str

    def read(self, start: int = 0, stop: int | None = None) -> Array:
        """Never: the values are not here."""
        raise AssertionError("a split adapter needs no value of its base")


@dataclass(frozen=True)
class SplitAdapter:
    """name: that of its files in the product. matrices, vectors: changes by the checkpoint's tensor names."""

    name: str
    matrices: Mapping[str, LowRank]
    vectors: Mapping[str, Shift]


def outlines(tensors: Path) -> dict[str, LazyTensor]:
    """The checkpoint that tensors.json describes, without values."""
    entries = json.loads(tensors.read_text(encoding="utf-8"))["tensors"]
    return {name: Outline(tuple(entry["shape"]), entry["dtype"]) for name, entry in entries.items()}


def split_folders(folder: Path) -> list[tuple[str, Path, float]]:
    """(name, folder, weight) of the adapters of a "split" input, `NAME/…` or `NAME@0.7/…`, by name."""
    found = []
    for path in sorted(config.parent for config in folder.glob("*/adapter_config.json")):
        name, _, weight = path.name.partition("@")
        found.append((name, path, float(weight or 1)))
    if not found:
        raise StageFailed("adapter=split, and there is no adapter_config.json", "set adapter.path to a PEFT adapter")
    return found


def read_split(base: Mapping[str, LazyTensor], name: str, folder: Path, weight: float) -> SplitAdapter:
    """One adapter, its scaling and `weight` still apart from its matrices.

    Raises StageFailed as a merge does, and for whatever is no addition to the output of a linear.
    """
    config = read_config(folder / "adapter_config.json", f"adapter {name}", weight)
    modules = read_modules(folder / "adapter_model.safetensors", config)
    check_targets(config, modules)
    changes = adapter_changes(base, modules, config)
    embedding = embedding_name(base)
    matrices: dict[str, LowRank] = {}
    vectors: dict[str, Shift] = {}
    for tensor, change in ((tensor, change) for tensor, found in changes.items() for change in found):
        if reason := _why_not(change, tensor == embedding):
            raise StageFailed(f"{config.name} cannot be split: it {reason} ({tensor})", MERGE)
        if isinstance(change, LowRank):
            matrices[tensor] = change
        elif isinstance(change, Shift):
            vectors[tensor] = change
    return SplitAdapter(name, matrices, vectors)


def _why_not(change: Change, is_embedding: bool) -> str:
    """Why `change` cannot stand beside the base, or ""."""
    if is_embedding:
        return "changes the token embedding, which is looked up outside the graph"
    if isinstance(change, Dora):
        return "is a DoRA, whose magnitudes scale the whole weight"
    if isinstance(change, Replacement):
        return "replaces a tensor as a whole (modules_to_save, trained biases)"
    return ""


def summary(adapter: SplitAdapter, config: Mapping[str, Any]) -> dict[str, Any]:
    """What the manifest says of an adapter. config: its adapter_config.json."""
    ranks = sorted({int(change.right.shape[0]) for change in adapter.matrices.values()})
    return {
        "tensors": len(adapter.matrices) + len(adapter.vectors),
        "ranks": ranks,
        "made_for": config.get("base_model_name_or_path") or "",
    }

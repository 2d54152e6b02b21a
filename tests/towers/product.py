"""Tiny vision models through the real stages to a folder that the engine opens."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from pipeline.recipe.schema import Recipe
from pipeline.verify.selfcheck import build
from tests.towers.models import write_model


def recipe(**visual: Any) -> dict[str, Any]:
    """A recipe in fp16; `visual` are keys of its section."""
    whole = asdict(Recipe())
    whole["quant"] |= {"bits": 16, "block": 0}
    whole["model"]["modalities"] = ["visual"]
    whole["visual"] |= visual
    return whole


def rename_as_published(source: Path) -> None:
    """Give the encoder's tensors the names that published checkpoints have, which transformers renames as it loads."""
    file = source / "model.safetensors"
    named = {name.replace("vision_tower.", "vision_tower.vision_model."): one for name, one in load_file(file).items()}
    save_file(named, file, {"format": "pt"})


def build_family(family: str, work: Path, **visual: Any) -> Path:
    """`work`/source and the product's folder, which sees and does not hear."""
    write_model(family, work / "source")
    whole = recipe(**visual)
    whole["audio"]["mode"] = "off"
    return build(work / "source", work, whole, encoders=("visual",))

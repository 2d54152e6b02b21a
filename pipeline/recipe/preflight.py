"""What a recipe will cost, estimated before any work, and a refusal when the disk cannot hold it.

The sizes are arithmetic on the parameters and bits. Memory and time are rough (the constants say where they come from):
they are for a person's eye and for the scheduler's budget, no contract.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import UserError
from pipeline.recipe.quants import bits_per_weight
from pipeline.recipe.schema import Recipe
from pipeline.recipe.validate import head_bits

GB = 1 << 30

# The export's own peak: torch and transformers tracing on the meta device, which no weight ever enters, or the weight
# pass with its row blocks: SmolLM2 0.40 GB, a 1.5B 0.42, a 7B 0.38, ten layers of a 30B-A3B 0.41 (benchmarks/scale.py).
BASE_MEMORY = 400 << 20
# What the graph, the scales of the largest linear and the tables of tensors grow by.
MEMORY_PER_BILLION = 8 << 20
# What the worker with the float32 reference, and the process that it is a fork of, hold beside the weights: SmolLM2's
# whole verified export peaks at 1.31 GB (benchmarks/export.py).
REFERENCE_BASE = 200 << 20
# Slack that a file system needs to stay usable.
DISK_SLACK = 256 << 20
# Tracing, converting and linking: SmolLM2 took 5 to 9 s in all. Then hashing, reading, quantising, writing: a 1.5B's
# 3.1 GB took 7 to 11 s in all, a 7B's 15 GB 30 to 37 (benchmarks/scale.py, two hyperthreads of one core).
BASE_SECONDS = 6.0
WEIGHT_BYTES_PER_SECOND = 0.55e9
# Parameters below which families tie their head to the embedding (Qwen, Llama 3.2, SmolLM and Gemma all do).
_SMALL = 3.5e9
ALGORITHM_SECONDS_PER_BILLION = {"rtn": 0.0, "hqq": 120.0, "mse": 300.0, "awq": 700.0, "gptq": 800.0, "auto": 800.0}


@dataclass(frozen=True)
class Estimate:
    """Bytes and seconds, estimated. None where the recipe does not tell the model's size.

    download: source files still to fetch (0 for a local source). product: the folder under artifacts/. disk: everything
    that the export adds, store included. memory: peak of the process tree, verification's reference model apart
    (`reference_memory`). seconds: wall time on two cores, download apart.
    """

    download: int
    product: int
    disk: int
    memory: int
    reference_memory: int
    seconds: float


def estimate(recipe: Recipe, source_bytes: int | None = None) -> Estimate | None:
    """The recipe's cost, or None if neither its YAML nor `source_bytes` (a source already here) tells its size."""
    parameters = recipe.model.parameters * 1e9 or _parameters(recipe, source_bytes)
    if not parameters:
        return None
    source = int(parameters * 2) if source_bytes is None else source_bytes
    download = source if recipe.model.hub in ("huggingface", "modelscope") and source_bytes is None else 0
    product = _product_bytes(recipe, parameters)
    reference = 0 if recipe.verify.mode == "off" else int(parameters * 4 * 1.15)
    fits = reference <= recipe.verify.reference_memory_gb * GB
    return Estimate(
        download=download,
        product=product,
        # The store keeps the product's large files, and the product itself shares or copies them: count them twice.
        disk=download + 2 * product,
        memory=BASE_MEMORY + int(MEMORY_PER_BILLION * min(parameters / 1e9, 12)),
        reference_memory=reference + REFERENCE_BASE if reference and fits else 0,
        seconds=_seconds(recipe, parameters, source),
    )


def _parameters(recipe: Recipe, source_bytes: int | None) -> float:
    """Parameters of a local source: two bytes each is what checkpoints hold; a GGUF's bits are not known, so four."""
    if source_bytes is None:
        return 0.0
    return source_bytes * (2.0 if recipe.model.path.endswith(".gguf") else 0.5)


def _product_bytes(recipe: Recipe, parameters: float) -> int:
    """Weights at their stored width; the head at its own; a separate embedding table, if there is likely one."""
    quant, mode = recipe.quant, recipe.embedding.mode
    # Vocabulary × width: 28 M of SmolLM2's 135 M, 136 M of Qwen2's 494 M, 233 M of its 1.5 B, 545 M of its 7.6 B.
    head = min(0.25 * parameters, 0.1e9 + 0.06 * parameters)
    linears = (parameters - head) * bits_per_weight(quant) + head * bits_per_weight(quant, head_bits(quant))
    tied = mode == "tied" or (mode == "auto" and parameters < _SMALL)
    return int((linears + (0.0 if tied else head * recipe.embedding.bits)) / 8) + (8 << 20)


def _seconds(recipe: Recipe, parameters: float, source: int) -> float:
    algorithm = recipe.quant.algorithm.partition("-")[0]
    thinking = ALGORITHM_SECONDS_PER_BILLION.get(algorithm, 0.0) * parameters / 1e9
    return round(BASE_SECONDS + source / WEIGHT_BYTES_PER_SECOND + thinking, 1)


def refuse_full_disk(recipes: list[tuple[Recipe, int | None]], folder: Path) -> None:
    """Raises UserError if the disk of `folder` cannot take all the recipes (each with its source's bytes, if here)."""
    needs = {recipe.name: guess.disk for recipe, size in recipes if (guess := estimate(recipe, size)) is not None}
    free = shutil.disk_usage(_existing(folder)).free
    needed = sum(needs.values()) + DISK_SLACK
    if needs and needed > free:
        names = ", ".join(needs)
        raise UserError(
            f"{names} needs about {needed / GB:.1f} GB of disk, and {folder} has {free / GB:.1f} GB free",
            "free some (doit gc), or set cache.dir to a larger disk",
        )


def _existing(folder: Path) -> Path:
    return next(parent for parent in (folder, *folder.parents) if parent.exists())

"""What an adapter says of its family: the engine's names for the inputs, and how to call the model's own code.

An adapter is a module of this package with two functions,

    def tower(model: Model, folder: Path, options: Options) -> Tower
    def decoder(config: PretrainedConfig, options: Options) -> Decoder

`model` is the whole Hugging Face model on the meta device, `folder` the checkpoint stage's output (processor files).
Both raise UserError for what the engine's fixed sizes do not allow. No layer is written anew: the model's own modules
run, and tensors that depend on the picture's size come in through the arguments that transformers has for them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from pipeline.errors import UserError
from pipeline.graph.towers.tower_files import PROCESSORS

Tensors = Mapping[str, torch.Tensor]
HALF = (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class Given:
    """A graph input under the engine's name. shape: of a trace at `length`, the size that grows (merged tokens)."""

    name: str
    shape: Callable[[int], Sequence[int]]
    dtype: torch.dtype = torch.float32


@dataclass(frozen=True)
class Tower:
    """One encoder. The engine finds inputs and outputs by these names, and by the inputs' order.

    roots: the encoder's modules by path ("model.visual"), for the attention that they get. call: graph inputs by name
    → the outputs in order. engine: what llm_config.json says of it. preprocessing: what a program must know that
    prepares the input itself (the product's <kind>.json). positions: the largest position along one axis, for tables.
    keep: names of linears that stay fp16 whatever the recipe says: a cut into patches that is no convolution.
    """

    kind: str
    roots: tuple[str, ...]
    inputs: tuple[Given, ...]
    outputs: tuple[str, ...]
    call: Callable[[Tensors], Sequence[torch.Tensor]]
    engine: Mapping[str, Any]
    preprocessing: Mapping[str, Any] = field(default_factory=dict)
    positions: int = 4096
    notes: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()


def processor(folder: Path, name: str = "image_processor") -> dict[str, Any]:
    """The settings of a checkpoint's image processor or feature extractor; {} where it has no file of them.

    transformers 5 writes them as a section `name` of processor_config.json, earlier versions as
    preprocessor_config.json.
    """
    found: dict[str, Any] = {}
    for file in PROCESSORS:
        if (folder / file).is_file():
            content = json.loads((folder / file).read_text(encoding="utf-8"))
            section = content.get(name, content if file == PROCESSORS[0] else {})
            found = {**found, **section}
    return found


def token_ids(folder: Path, tokens: Sequence[str]) -> dict[str, int]:
    """The ids of those of `tokens` that the checkpoint's tokenizer.json has, as added tokens or in its vocabulary."""
    content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary = content.get("model", {}).get("vocab", {})
    found = {token: int(vocabulary[token]) for token in tokens if token in vocabulary}
    return found | {
        entry["content"]: int(entry["id"]) for entry in content.get("added_tokens", []) if entry["content"] in tokens
    }


def picture_tokens(folder: Path, *tokens: str) -> list[int]:
    """The ids of the tokens around a family's pictures, in order. UserError if the tokenizer lacks one."""
    found = token_ids(folder, tokens)
    missing = [token for token in tokens if token not in found]
    if missing:
        raise UserError(f"the tokenizer has no {', '.join(missing)}, which stand around this model's pictures")
    return [found[token] for token in tokens]


def normalisation(
    settings: Mapping[str, Any], mean: Sequence[float] = HALF, deviation: Sequence[float] = HALF
) -> dict[str, list[float]]:
    """llm_config.json's keys for (pixel − image_mean) · image_norm, pixels from 0 to 255.

    settings: the image processor's. mean, deviation: its class's own, for settings that say none, of pixels up to 1.
    """
    return {
        "image_mean": [255.0 * value for value in settings.get("image_mean", mean)],
        "image_norm": [1.0 / (255.0 * value) for value in settings.get("image_std", deviation)],
    }


def square_pictures(side: int) -> dict[str, Any]:
    """llm_config.json's keys for an encoder of squares."""
    return {"is_visual": True, "image_size": side, "image_size_unit": side}


def token_text(folder: Path, number: int) -> str:
    """The text of an added token. UserError if tokenizer.json has none of that number."""
    content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    for entry in content.get("added_tokens", []):
        if int(entry["id"]) == number:
            return str(entry["content"])
    raise UserError(f"the tokenizer has no added token {number}, which config.json calls the image's")


def require(holds: bool, what: str, kind: str = "visual") -> None:
    """Raises UserError that the engine cannot take the encoder because of `what`."""
    if not holds:
        raise UserError(
            f"the engine cannot run this encoder: {what}", f"build the text part alone with {kind}.mode=off"
        )

"""InternVL: square tiles, stacked into one high picture, so that the engine's plain branch takes any number of them.

The engine resizes a picture to the size in `<hw>` and feeds it as it is, [1, 3, height, width]; a height of n sides is
n tiles here. Its own programs can give one tile (`<hw>448,448</hw>`); `python -m pipeline` stacks the model's own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import PretrainedConfig

from pipeline.graph.decoder import Decoder
from pipeline.graph.model import Model
from pipeline.graph.towers.tower import (
    Given,
    Tensors,
    Tower,
    normalisation,
    picture_tokens,
    processor,
    require,
    square_pictures,
)
from pipeline.graph.tracer import Options

START, END = "<img>", "</img>"
IMAGENET_MEAN, IMAGENET_DEVIATION = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def decoder(config: PretrainedConfig, options: Options) -> Decoder:
    """See tower.py."""
    return Decoder()


def tower(model: Model, folder: Path, options: Options) -> Tower:
    """See tower.py."""
    config, inner = model.config, model.model
    side = _side(config.vision_config.image_size)

    def call(given: Tensors) -> list[torch.Tensor]:
        high = given["input_images"]
        tiles = high.reshape(3, -1, side, side).permute(1, 0, 2, 3)
        _repeat_class_token(inner.vision_tower.embeddings, tiles)
        found = inner.get_image_features(pixel_values=tiles, return_dict=True).pooler_output
        return [found.reshape(-1, 1, found.shape[-1])]

    settings = processor(folder)
    return Tower(
        kind="visual",
        roots=("model.vision_tower", "model.multi_modal_projector"),
        inputs=(Given("input_images", lambda length: (1, 3, length * side, side)),),
        outputs=("image_embeds",),
        call=call,
        engine=_engine_keys(config, side, settings, folder),
        preprocessing={
            "kind": "stacked_tiles",
            "side": side,
            "split": bool(settings.get("crop_to_patches", False)),
            "min_tiles": int(settings.get("min_patches", 1)),
            "max_tiles": int(settings.get("max_patches", 12)),
            "resample": int(settings.get("resample", 3)),
        },
    )


def _repeat_class_token(embeddings: Any, tiles: torch.Tensor) -> None:
    """Gives the class token a row per tile that depends on the tile (by nothing): no constant fits every count."""
    if not hasattr(embeddings, "own_class_token"):
        embeddings.own_class_token = embeddings.cls_token
        del embeddings.cls_token
    nothing = tiles.reshape(tiles.shape[0], -1)[:, :1, None] * 0
    embeddings.cls_token = embeddings.own_class_token + nothing


def _side(size: Any) -> int:
    sides = set(size) if isinstance(size, list | tuple) else {size}
    require(len(sides) == 1, f"tiles of {size} pixels, which are not square")
    return int(sides.pop())


def _engine_keys(config: PretrainedConfig, side: int, settings: dict[str, Any], folder: Path) -> dict[str, Any]:
    start, end = picture_tokens(folder, START, END)
    return {
        **square_pictures(side),
        **normalisation(settings, IMAGENET_MEAN, IMAGENET_DEVIATION),
        "vision_start": start,
        "vision_end": end,
        "image_pad": int(config.image_token_id),
    }

"""Idefics3 and SmolVLM: square tiles through SigLIP, then a pixel shuffle. The engine tiles large pictures itself."""

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
    square_pictures,
    token_text,
)
from pipeline.graph.tracer import Options

FAKE, GLOBAL = "<fake_token_around_image>", "<global-img>"
TILES = (
    "pictures in tiles: the engine writes two line feeds where the model's own prompt has one token for both, and cuts "
    "without antialias; `python -m pipeline` prepares tiles and tokens itself, exactly"
)


def decoder(config: PretrainedConfig, options: Options) -> Decoder:
    """See tower.py."""
    return Decoder()


def tower(model: Model, folder: Path, options: Options) -> Tower:
    """See tower.py."""
    vision, inner = model.config.vision_config, model.model
    side, patch = int(vision.image_size), int(vision.patch_size)
    grid = side // patch

    def call(given: Tensors) -> list[torch.Tensor]:
        pixels = given["pixel_values"]
        everything = torch.ones((int(pixels.shape[0]), grid, grid), dtype=torch.bool)
        states = inner.vision_model(pixel_values=pixels, patch_attention_mask=everything).last_hidden_state
        return [inner.connector(states).unsqueeze(2)]

    settings = processor(folder)
    return Tower(
        kind="visual",
        roots=("model.vision_model", "model.connector"),
        inputs=(Given("pixel_values", lambda length: (length, 3, side, side)),),
        outputs=("image_embeds",),
        call=call,
        engine=_engine_keys(model.config, side, settings, folder),
        preprocessing={
            "kind": "tiles",
            "side": side,
            "longest_edge": int((settings.get("size") or {}).get("longest_edge", 4 * side)),
            "resample": int(settings.get("resample", 1)),
            "split": bool(settings.get("do_image_splitting", True)),
            "words": {"fake": FAKE, "global": GLOBAL, "image": token_text(folder, int(model.config.image_token_id))},
            "tokens": grid * grid // int(model.config.scale_factor) ** 2,
        },
        notes=(TILES,),
    )


def _engine_keys(config: PretrainedConfig, side: int, settings: dict[str, Any], folder: Path) -> dict[str, Any]:
    fake, whole = picture_tokens(folder, FAKE, GLOBAL)
    return {
        **square_pictures(side),
        **normalisation(settings),
        "image_max_size": int((settings.get("size") or {}).get("longest_edge", 4 * side)),
        "vision_start": fake,
        "vision_end": fake,
        "global_image": whole,
        "image_pad": int(config.image_token_id),
    }

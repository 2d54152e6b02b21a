"""LFM2-VL: pictures of any shape through SigLIP2 (NaFlex), before a decoder with short convolutions.

It goes by the engine's branch of patches of 16 pixels, Qwen3-VL's. Patches, rows, columns and the mask are what this
encoder takes, in another order; the engine's four positions with weights are those of another filter (corners aligned),
so the graph works its own out of rows and columns (`antialias.py`). The branch puts the four patches of a token next to
each other, rows first, as the projector's pixel unshuffle does. Its mrope positions do not reach the decoder: the
engine feeds plain ones to a graph whose position_ids have one row (MNN: omni.cpp, gen_position_ids).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from transformers import PretrainedConfig

from pipeline.graph.decoder import Decoder
from pipeline.graph.model import Model
from pipeline.graph.towers.antialias import grid_weights
from pipeline.graph.towers.qwen2_vl import patch_inputs
from pipeline.graph.towers.qwen3_vl import TAPS
from pipeline.graph.towers.tower import Tensors, Tower, normalisation, picture_tokens, processor, require, token_text
from pipeline.graph.tracer import Options

PATCH, MERGE, FRAMES, CHANNELS = 16, 2, 2, 3  # fixed in the engine (MNN: omni.cpp, qwen2VisionProcess)
UNIT = PATCH * MERGE
BILINEAR = 2  # PIL's number
START, END, THUMBNAIL = "<|image_start|>", "<|image_end|>", "<|img_thumbnail|>"
TILES = (
    "the engine takes each picture as one: it makes no tiles and no thumbnail of large ones; `python -m pipeline` "
    "prepares both and the model's own prompt"
)


def decoder(config: PretrainedConfig, options: Options) -> Decoder:
    """See tower.py."""
    return Decoder()


def tower(model: Model, folder: Path, options: Options) -> Tower:
    """See tower.py."""
    inner, vision = model.model, model.config.vision_config
    _check_encoder(model.config)
    side = int(vision.num_patches**0.5)
    encoder, projector = inner.vision_tower, inner.multi_modal_projector
    encoder.use_head = False  # SigLIP2's own pooling, which nothing reads
    projector.pixel_unshuffle = lambda tokens: tokens  # the engine has put a token's patches next to each other

    def call(given: Tensors) -> list[torch.Tensor]:
        embeddings = encoder.embeddings
        learned = torch.nn.functional.embedding(torch.arange(side * side), embeddings.position_embedding.weight)
        positions = (grid_weights(given["position_ids"], side) + _nothing(given)) @ learned
        # In the place of transformers' forward, which must know the picture's grid when it runs.
        embeddings.forward = lambda pixels, _: embeddings.patch_embedding(pixels) + positions
        states = encoder(
            pixel_values=_patches(given["patches"])[None],
            pixel_attention_mask=given["attention_mask"][None],
            spatial_shapes=None,
        ).last_hidden_state
        tokens = states.reshape(-1, MERGE * MERGE * int(states.shape[-1]))
        return [projector(tokens).unsqueeze(1)]

    settings = processor(folder)
    facts = preprocessing(settings, folder, int(model.config.image_token_id))
    return Tower(
        kind="visual",
        roots=("model.vision_tower",),
        inputs=(*patch_inputs(CHANNELS * FRAMES * PATCH * PATCH), *TAPS),
        outputs=("image_embeds",),
        call=call,
        engine=_engine_keys(model.config, settings, folder),
        preprocessing=facts,
        notes=(TILES,) if facts["split"] else (),
        keep=("model.vision_tower.embeddings.patch_embedding",),
    )


def _nothing(given: Tensors) -> torch.Tensor:
    """float32 [N, 1] of zeros: it keeps the engine's own positions in use, which are finite, and which it feeds."""
    return ((given["idx_tensor"].float() + given["weight_tensor"]).sum(0) * 0)[:, None]


def _patches(rows: torch.Tensor) -> torch.Tensor:
    """The engine's [N, channel · frame · row · column], two frames that are the same, → [N, row · column · channel]."""
    split = rows.reshape(-1, CHANNELS, FRAMES, PATCH, PATCH)
    return split[:, :, 0].permute(0, 2, 3, 1).reshape(-1, PATCH * PATCH * CHANNELS)


def _check_encoder(config: PretrainedConfig) -> None:
    vision = config.vision_config
    require(int(vision.patch_size) == PATCH, f"patches of {vision.patch_size} pixels instead of {PATCH}")
    require(int(config.downsample_factor) == MERGE, f"{config.downsample_factor} x as downsample factor, not {MERGE}")
    require(int(vision.num_channels) == CHANNELS, f"{vision.num_channels} colours instead of {CHANNELS}")
    side = round(int(vision.num_patches) ** 0.5)
    require(side * side == int(vision.num_patches), f"{vision.num_patches} learned positions, which are no square")


def _engine_keys(config: PretrainedConfig, settings: dict[str, Any], folder: Path) -> dict[str, Any]:
    start, end = picture_tokens(folder, START, END)
    return {
        "is_visual": True,
        "image_size": int(settings.get("tile_size", 512)),  # of a picture whose size a program does not give
        **normalisation(settings),
        "vision_start": start,
        "vision_end": end,
        "image_pad": int(config.image_token_id),
        "num_grid_per_side": 1,  # the engine's positions, which the graph does not read, are then all 0
    }


def preprocessing(settings: dict[str, Any], folder: Path, image_token: int) -> dict[str, Any]:
    """visual.json: what transformers' processor does to a picture, with its defaults (its class Lfm2VlImageProcessor).

    UserError for settings under which the engine or transformers' own prompt could not follow.
    """
    least, most = int(settings.get("min_tiles", 2)), int(settings.get("max_tiles", 10))
    split = bool(settings.get("do_image_splitting", True)) and not least == most == 1
    side = int(settings.get("tile_size", 512))
    _check_processor(settings, folder)
    if split:
        require(side % UNIT == 0, f"tiles of {side} pixels, which is no multiple of {UNIT}")
        require(2 <= least <= most, f"pictures in {least} to {most} tiles, where transformers' prompt counts from 2")
    return {
        "kind": "flexible",
        "unit": UNIT,
        "min_pixels": int(settings.get("min_image_tokens", 64)) * UNIT * UNIT,
        "max_pixels": int(settings.get("max_image_tokens", 256)) * UNIT * UNIT,
        "tolerance": float(settings.get("max_pixels_tolerance", 2.0)),
        "split": split,
        "side": side,
        "min_tiles": least,
        "max_tiles": most,
        "thumbnail": bool(settings.get("use_thumbnail", True)),
        "resample": BILINEAR,
        "words": {"start": START, "end": END, "thumbnail": THUMBNAIL, "image": token_text(folder, image_token)},
    }


def _check_processor(settings: dict[str, Any], folder: Path) -> None:
    for name, size in (("encoder_patch_size", PATCH), ("downsample_factor", MERGE)):
        require(int(settings.get(name, size)) == size, f"its processor's {name} is {settings.get(name)}, not {size}")
    resample = int(settings.get("resample", BILINEAR))
    require(resample == BILINEAR, f"its processor resizes by PIL's filter {resample} instead of {BILINEAR}, bilinear")
    for name in ("do_rescale", "do_normalize"):
        require(bool(settings.get(name, True)), f"its processor does not make the pixels so ({name}: false)")
    require(_has_special_tokens(folder), "tiles without tokens between them (use_image_special_tokens: false)")


def _has_special_tokens(folder: Path) -> bool:
    file = folder / "processor_config.json"
    return not file.is_file() or bool(json.loads(file.read_text("utf-8")).get("use_image_special_tokens", True))

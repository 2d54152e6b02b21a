"""Qwen3.5: Qwen3-VL's encoder without deepstack, before a decoder that keeps a recurrent state."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import PretrainedConfig

from pipeline.graph.decoder import Decoder
from pipeline.graph.model import Model
from pipeline.graph.towers.qwen2_vl import (
    ENGINE_POSITIONS,
    QwenDecoder,
    check_sizes,
    patch_inputs,
    preprocessing,
    rows,
)
from pipeline.graph.towers.qwen3_vl import TAPS, grid_keys, interpolated
from pipeline.graph.towers.tower import Tensors, Tower
from pipeline.graph.tracer import Options


def decoder(config: PretrainedConfig, options: Options) -> Decoder:
    """See tower.py."""
    return QwenDecoder(config, options.exact_positions)


def tower(model: Model, folder: Path, options: Options) -> Tower:
    """See tower.py."""
    vision = model.config.vision_config
    check_sizes(vision, patch=16)
    visual, merge = model.model.visual, int(vision.spatial_merge_size)

    def call(given: Tensors) -> list[torch.Tensor]:
        found = visual(given["patches"], grid_thw=None, **interpolated(given)).pooler_output
        return [rows(found, given["position_ids"], merge, options)]

    return Tower(
        kind="visual",
        roots=("model.visual",),
        inputs=(*patch_inputs(3 * 2 * 16 * 16), *TAPS),
        outputs=("image_embeds",),
        call=call,
        engine=grid_keys(model.config, folder),
        preprocessing=preprocessing(vision, folder),
        notes=() if options.exact_positions else (ENGINE_POSITIONS,),
    )

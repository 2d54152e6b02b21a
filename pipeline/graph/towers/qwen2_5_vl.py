"""Qwen2.5-VL: Qwen2-VL with windows; the engine feeds the order of the windows and a mask of its own for them."""

from __future__ import annotations

from pathlib import Path

import torch

from pipeline.graph.model import Model
from pipeline.graph.towers.qwen2_vl import (
    ENGINE_POSITIONS,
    check_sizes,
    decoder,
    engine_keys,
    patch_inputs,
    preprocessing,
    rows,
)
from pipeline.graph.towers.tower import Given, Tensors, Tower, require
from pipeline.graph.tracer import Options

__all__ = ["decoder", "tower"]


def tower(model: Model, folder: Path, options: Options) -> Tower:
    """See tower.py."""
    vision = model.config.vision_config
    check_sizes(vision, patch=14)
    require(int(vision.window_size) == 112, f"windows of {vision.window_size} pixels instead of 112")
    visual, merge = model.model.visual, int(vision.spatial_merge_size)

    def call(given: Tensors) -> list[torch.Tensor]:
        mask = given["attention_mask"]
        found = visual(
            given["patches"],
            grid_thw=None,
            position_ids=given["position_ids"].transpose(0, 1),
            cu_seqlens=mask[0],
            cu_window_seqlens=mask[1],
            window_index=given["window_index"],
            max_seqlen=1,
            max_window_seqlen=1,
        ).pooler_output
        return [rows(found, given["position_ids"], merge, options)]

    order = Given("window_index", lambda length: (length,), torch.int64)
    return Tower(
        kind="visual",
        roots=("model.visual",),
        inputs=(*patch_inputs(3 * 2 * 14 * 14, masks=2), order),
        outputs=("image_embeds",),
        call=call,
        engine=engine_keys(model.config, folder),
        preprocessing=preprocessing(vision, folder),
        notes=() if options.exact_positions else (ENGINE_POSITIONS,),
    )

"""Qwen3-VL: learned positions interpolated to the picture's grid, and features of inner layers for the first decoder
layers (deepstack)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import PretrainedConfig

from pipeline.graph.decoder import Decoder, Inputs
from pipeline.graph.model import Model
from pipeline.graph.towers.qwen2_vl import (
    ENGINE_POSITIONS,
    QwenDecoder,
    check_sizes,
    engine_keys,
    patch_inputs,
    preprocessing,
    rows,
)
from pipeline.graph.towers.tower import Given, Tensors, Tower, require
from pipeline.graph.tracer import Options, Tracer

TAPS = (
    Given("idx_tensor", lambda length: (4, 4 * length), torch.int64),
    Given("weight_tensor", lambda length: (4, 4 * length)),
)
LEVELS = 3  # the engine's zeros for tokens without a picture have this many (MNN: omni.cpp, mExtraArgs)


class DeepstackDecoder(QwenDecoder):
    """The graph has one more input, `deepstack_embeds` [3, L, hidden + markers]: zeros where there is no picture."""

    def extra(self, tracer: Tracer, length: int, hidden: int) -> dict[str, torch.Tensor]:
        """See Decoder."""
        name = "deepstack_embeds"
        return {name: tracer.new_input(name, (LEVELS, length, hidden + self.markers), torch.float32)}

    def logits(self, model: Any, given: Inputs) -> torch.Tensor:
        """See Decoder. The engine's zeros make the sum right for every row, so no row has to be picked out."""
        text = model.model.language_model
        hidden = int(given.embedded.shape[-1])
        stacked = given.extra["deepstack_embeds"][:, :, :hidden]
        text._deepstack_process = lambda states, _mask, features: states + features
        found = text(
            inputs_embeds=given.embedded,
            position_ids=self.positions(given),
            use_cache=False,
            visual_pos_masks=torch.ones(1),
            deepstack_visual_embeds=[stacked[level : level + 1] for level in range(LEVELS)],
        ).last_hidden_state
        result: torch.Tensor = model.lm_head(found)
        return result


def decoder(config: PretrainedConfig, options: Options) -> Decoder:
    """See tower.py."""
    return DeepstackDecoder(config, options.exact_positions)


def tower(model: Model, folder: Path, options: Options) -> Tower:
    """See tower.py."""
    vision = model.config.vision_config
    check_sizes(vision, patch=16)
    levels = len(vision.deepstack_visual_indexes)
    require(levels == LEVELS, f"{levels} deepstack levels instead of {LEVELS}")
    visual, merge = model.model.visual, int(vision.spatial_merge_size)

    def call(given: Tensors) -> list[torch.Tensor]:
        found = visual(given["patches"], grid_thw=None, **interpolated(given))
        features = torch.stack(found.deepstack_features)
        if options.exact_positions:  # the engine makes the text's zeros as wide as these
            features = torch.nn.functional.pad(features, (0, QwenDecoder(model.config, exact=True).markers))
        return [rows(found.pooler_output, given["position_ids"], merge, options), features]

    return Tower(
        kind="visual",
        roots=("model.visual",),
        inputs=(*patch_inputs(3 * 2 * 16 * 16), *TAPS),
        outputs=("image_embeds", "deepstack_feature"),
        call=call,
        engine={**grid_keys(model.config, folder), "has_deepstack": True},
        preprocessing=preprocessing(vision, folder),
        notes=() if options.exact_positions else (ENGINE_POSITIONS,),
    )


def interpolated(given: Tensors) -> dict[str, torch.Tensor | int]:
    """What transformers' encoder would compute from the picture's grid, out of the graph's inputs."""
    return {
        "position_ids": given["position_ids"].transpose(0, 1),
        "cu_seqlens": given["attention_mask"],
        "max_seqlen": 1,
        "interp_indices": given["idx_tensor"].transpose(0, 1),
        "interp_weights": given["weight_tensor"].transpose(0, 1),
    }


def grid_keys(config: PretrainedConfig, folder: Path) -> dict[str, Any]:
    """llm_config.json's keys of an encoder whose learned positions are a square grid."""
    side = int(config.vision_config.num_position_embeddings**0.5)
    return {**engine_keys(config, folder, centred=True), "num_grid_per_side": side}

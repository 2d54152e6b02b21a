"""Qwen2-VL: patches of any picture size, rows and columns as rotary positions, mrope in the decoder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import PretrainedConfig

from pipeline.graph.decoder import Decoder, Inputs
from pipeline.graph.model import Model, positions
from pipeline.graph.towers import qwen_positions
from pipeline.graph.towers.tower import HALF, Given, Tensors, Tower, normalisation, processor, require
from pipeline.graph.tracer import Options

CLIP_MEAN = [0.48145466, 0.4578275, 0.40821073]
CLIP_DEVIATION = [0.26862954, 0.26130258, 0.27577711]
ENGINE_POSITIONS = (
    "visual.positions=engine: the engine places text after a picture by its number of tokens while it decodes, and "
    "after a picture higher than wide also in the prompt; answers about pictures differ from the model's own"
)


class QwenDecoder(Decoder):
    """mrope over time, row and column; the positions are the engine's, or counted in the graph (`exact`)."""

    axes = 3

    def __init__(self, config: PretrainedConfig, exact: bool) -> None:
        self.limit = positions(config)
        self.markers = qwen_positions.MARKERS if exact else 0

    def positions(self, given: Inputs) -> torch.Tensor:
        """int64 [3, 1, L], as transformers takes them."""
        found = qwen_positions.positions(given, self.limit) if self.markers else given.positions
        return found[:, None, :]

    def logits(self, model: Any, given: Inputs) -> torch.Tensor:
        """As Decoder.logits."""
        result: torch.Tensor = model(
            input_ids=given.ids, position_ids=self.positions(given), use_cache=False
        ).logits
        return result


def decoder(config: PretrainedConfig, options: Options) -> Decoder:
    """See tower.py."""
    return QwenDecoder(config, options.exact_positions)


def tower(model: Model, folder: Path, options: Options) -> Tower:
    """See tower.py."""
    vision = model.config.vision_config
    check_sizes(vision, patch=14)
    visual, merge = model.model.visual, int(vision.spatial_merge_size)

    def call(given: Tensors) -> list[torch.Tensor]:
        found = visual(
            given["patches"],
            grid_thw=None,
            position_ids=given["position_ids"].transpose(0, 1),
            cu_seqlens=given["attention_mask"],
            max_seqlen=1,
        ).pooler_output
        return [rows(found, given["position_ids"], merge, options)]

    return Tower(
        kind="visual",
        roots=("model.visual",),
        inputs=patch_inputs(3 * 2 * 14 * 14),
        outputs=("image_embeds",),
        call=call,
        engine=engine_keys(model.config, folder),
        preprocessing=preprocessing(vision, folder),
        notes=() if options.exact_positions else (ENGINE_POSITIONS,),
    )


def check_sizes(vision: Any, patch: int) -> None:
    """The engine's code has these numbers fixed (MNN: omni.cpp, qwen2VisionProcess and qwen3VisionProcess)."""
    require(int(vision.patch_size) == patch, f"patches of {vision.patch_size} pixels instead of {patch}")
    require(int(vision.spatial_merge_size) == 2, f"{vision.spatial_merge_size} x as merge size instead of 2")
    require(int(vision.temporal_patch_size) == 2, f"{vision.temporal_patch_size} frames a patch instead of 2")


def patch_inputs(width: int, masks: int = 1) -> tuple[Given, ...]:
    """patches float32 [N, width], position_ids int32 [2, N], attention_mask float32 [1, N, N] (or [masks, 1, N, N])."""
    lead = (1,) if masks == 1 else (masks, 1)
    return (
        Given("patches", lambda length: (4 * length, width)),
        Given("position_ids", lambda length: (2, 4 * length), torch.int64),
        Given("attention_mask", lambda length: (*lead, 4 * length, 4 * length)),
    )


def rows(found: torch.Tensor, position_ids: torch.Tensor, merge: int, options: Options) -> torch.Tensor:
    """float32 [tokens, hidden] → [tokens, 1, hidden (+ markers)], as the engine mixes them into the text's rows."""
    if options.exact_positions:
        found = torch.cat([found, qwen_positions.markers(position_ids, merge)], -1)
    return found.unsqueeze(1)


def engine_keys(config: PretrainedConfig, folder: Path, centred: bool = False) -> dict[str, Any]:
    """llm_config.json's: token ids from config.json, mean and deviation from the image processor.

    Where that says none they are transformers' defaults: CLIP's, or 0.5 and 0.5 for a model that is `centred`.
    """
    usual = (HALF, HALF) if centred else (CLIP_MEAN, CLIP_DEVIATION)
    return {
        "is_visual": True,
        "image_size": 420,
        **normalisation(processor(folder), *usual),
        "vision_start": int(config.vision_start_token_id),
        "vision_end": int(config.vision_end_token_id),
        "image_pad": int(config.image_token_id),
    }


def preprocessing(vision: Any, folder: Path) -> dict[str, Any]:
    """What `pipeline.media` must know: sides are multiples of `unit`, areas between min_pixels and max_pixels."""
    settings = processor(folder)
    size = settings.get("size") or {}
    return {
        "kind": "smart_resize",
        "unit": int(vision.patch_size) * int(vision.spatial_merge_size),
        "min_pixels": int(settings.get("min_pixels") or size.get("shortest_edge") or 56 * 56),
        "max_pixels": int(settings.get("max_pixels") or size.get("longest_edge") or 28 * 28 * 1280),
        "resample": int(settings.get("resample", 3)),
    }

"""Gemma 3: square pictures through SigLIP, averaged to a few tokens, which see each other in both directions.

The engine's decoder masks causally. So the encoder writes one number behind each of a picture's rows, how many rows of
the same picture come after it, and the decoder's graph widens its masks by that (`passes/look_ahead.py`). Two pictures
in one prompt stay apart by it, too. Rows come divided by √hidden, since the decoder multiplies every embedding by it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import PretrainedConfig

from pipeline.graph.decoder import Decoder, Inputs
from pipeline.graph.model import Model
from pipeline.graph.towers.tower import Given, Tensors, Tower, normalisation, processor, require, square_pictures
from pipeline.graph.tracer import Options

AROUND = "\n\n"  # transformers: Gemma3Processor puts it before the start token of a picture and behind the end token
RUNS = (
    "a picture's tokens see each other only if one run of the prompt holds them all: leave `chunk` and `chunk_limits` "
    "unset for prompts with pictures (`python -m pipeline` does)"
)


class PictureDecoder(Decoder):
    """Reads one marker, the number of rows of the same picture that follow; 0 in the token table."""

    markers = 1

    def logits(self, model: Any, given: Inputs) -> torch.Tensor:
        """See Decoder."""
        assert given.markers is not None
        given.tracer.graph.reach = given.tracer.value(given.markers)
        return super().logits(model, given)


def decoder(config: PretrainedConfig, options: Options) -> Decoder:
    """See tower.py."""
    return PictureDecoder() if options.pictures else Decoder()


def tower(model: Model, folder: Path, options: Options) -> Tower:
    """See tower.py."""
    config, inner = model.config, model.model
    side, settings = int(config.vision_config.image_size), processor(folder)
    _check_processor(settings, side)
    inner.vision_tower.use_head = False  # SigLIP's own pooling, which nothing reads

    def call(given: Tensors) -> list[torch.Tensor]:
        found = inner.get_image_features(given["input_images"], return_dict=True).pooler_output[0]
        count = int(found.shape[0])
        scale = float(model.get_input_embeddings().scalar_embed_scale)
        follow = torch.arange(count - 1, -1, -1, dtype=torch.float32)
        return [torch.cat([found * (1.0 / scale), follow[:, None]], -1).unsqueeze(1)]

    return Tower(
        kind="visual",
        roots=("model.vision_tower", "model.multi_modal_projector"),
        inputs=(Given("input_images", lambda length: (1, 3, side, side)),),
        outputs=("image_embeds",),
        call=call,
        engine={
            **square_pictures(side),
            **normalisation(settings),
            "vision_start": int(config.boi_token_id),
            "vision_end": int(config.eoi_token_id),
            "image_pad": int(config.image_token_id),
        },
        preprocessing={
            "kind": "square",
            "side": side,
            "resample": int(settings.get("resample", 2)),
            "before": AROUND,
            "after": AROUND,
        },
        notes=(RUNS,),
    )


def _check_processor(settings: dict[str, Any], side: int) -> None:
    size = settings.get("size") or {}
    sides = {int(size.get(name, side)) for name in ("height", "width")}
    require(sides == {side}, f"its processor makes pictures of {size}, its encoder takes {side} x {side}")
    require(not settings.get("do_pan_and_scan"), "its processor cuts pictures up (do_pan_and_scan)")

"""MiniCPM-V 4.7: 4.6's encoder, before a decoder that lays a picture and its slices on one canvas."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import PretrainedConfig

from pipeline.graph.decoder import Decoder, Inputs
from pipeline.graph.model import Model, positions
from pipeline.graph.towers import canvas_positions as canvas
from pipeline.graph.towers import families
from pipeline.graph.towers.minicpmv4_6 import WORDS, encoder
from pipeline.graph.towers.tower import Tower, picture_tokens, require
from pipeline.graph.tracer import Options

WORD_IDS = {
    "image_start_id": canvas.IMAGE,
    "image_end_id": canvas.IMAGE_END,
    "slice_start_id": canvas.SLICE,
    "slice_end_id": canvas.SLICE_END,
    "newline_id": canvas.LINE,
}
RUNS = (
    "a picture's place is counted from all of its tokens, so one run of the prompt must hold them all, and at most "
    f"{canvas.PICTURES} pictures: leave `chunk` and `chunk_limits` unset for prompts with pictures "
    "(`python -m pipeline` does)"
)


class CanvasDecoder(Decoder):
    """Positions over time, row and column, all counted in the graph; of the engine's one axis it reads what is 0."""

    markers = canvas.MARKERS

    def __init__(self, config: PretrainedConfig) -> None:
        self.limit = positions(config)
        self.flags = {int(getattr(config, name)): number for name, number in WORD_IDS.items()}

    def logits(self, model: Any, given: Inputs) -> torch.Tensor:
        """See Decoder."""
        graph = given.tracer.graph
        first = len(graph.nodes)
        places = canvas.positions(given, self.limit)[:, None, :]
        graph.within_run |= set(graph.nodes[first:])
        result: torch.Tensor = model(input_ids=given.ids, position_ids=places, use_cache=False).logits
        return result


def decoder(config: PretrainedConfig, options: Options) -> Decoder:
    """See tower.py."""
    if not options.pictures:
        return Decoder()
    families.check_positions(config.model_type, "exact" if options.exact_positions else "engine")
    for name in WORD_IDS:
        require(getattr(config, name, None) is not None, f"its config.json names no {name}")
    return CanvasDecoder(config)


def tower(model: Model, folder: Path, options: Options) -> Tower:
    """See tower.py."""
    names = list(WORD_IDS)[:4]  # the line feed is text, the others are words around pictures
    told = [getattr(model.config, name, None) for name in names]
    found = picture_tokens(folder, *list(WORDS.values())[:4])
    require(told == found, f"config.json's {', '.join(names)} are {told}, the tokenizer's {found}")
    return encoder(model, folder, canvas.markers, {"most": canvas.PICTURES}, (RUNS,))

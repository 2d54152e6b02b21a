"""Qwen2.5-Omni's thinker: Qwen2.5-VL's encoder and positions; sounds take positions as text does.

transformers' get_rope_index gives every audio token the next position on all three axes, so with the pictures' numbers
in the rows (`visual.positions=exact`) sounds need none of their own: theirs are zeros, as text's.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import PretrainedConfig

from pipeline.graph.decoder import Decoder, Inputs
from pipeline.graph.thinker import LEFT_OUT
from pipeline.graph.towers.qwen2_5_vl import tower
from pipeline.graph.towers.qwen2_vl import QwenDecoder
from pipeline.graph.tracer import Options

__all__ = ["decoder", "tower"]


class ThinkerDecoder(QwenDecoder):
    """As Qwen2.5-VL's, and says what is left out."""

    def logits(self, model: Any, given: Inputs) -> torch.Tensor:
        """As Decoder.logits."""
        given.tracer.note(f"{LEFT_OUT}; videos are not taken")
        return super().logits(model, given)


def decoder(config: PretrainedConfig, options: Options) -> Decoder:
    """See tower.py."""
    return ThinkerDecoder(config, options.exact_positions)

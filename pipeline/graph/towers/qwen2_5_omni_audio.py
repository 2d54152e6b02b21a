"""Qwen2.5-Omni's sound encoder: Whisper's in chunks of two seconds that do not see each other.

transformers cuts the mel features into chunks of 200 frames, pads the last with zeros, convolves each by itself and
counts positions from 0 in each; attention then keeps to the chunk by a mask, which the engine feeds. The cut is done
here, for any number of frames, and handed over through the arguments that transformers has for it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import PretrainedConfig

from pipeline.graph.decoder import Decoder
from pipeline.graph.model import Model
from pipeline.graph.towers import qwen2_5_omni
from pipeline.graph.towers.frames import cut_into, numbers
from pipeline.graph.towers.qwen2_audio import FRAMES, MEL
from pipeline.graph.towers.qwen_positions import MARKERS
from pipeline.graph.towers.tower import Given, Tensors, Tower, processor, require, token_text
from pipeline.graph.tracer import Options

WINDOW = 100  # of attention, in frames after the convolutions; fixed in the engine (MNN: omni.cpp, audioProcess)
CHUNK = 2 * WINDOW  # mel frames
LONGEST = 120  # seconds: the engine's mask has a number for each pair of 50 frames a second, 144 MB then
FEATURES = (
    "the engine's mel features differ from Hugging Face's by rounding in single quiet bins, and at a sound's last "
    "frame (docs/multimodal.md)"
)


def decoder(config: PretrainedConfig, options: Options) -> Decoder:
    """See tower.py."""
    return qwen2_5_omni.decoder(config, options)


def tower(model: Model, folder: Path, options: Options) -> Tower:
    """See tower.py."""
    config = model.config.audio_config
    require(int(config.num_mel_bins) == MEL["feature_size"], f"{config.num_mel_bins} mel bins instead of 128", "audio")
    require(int(config.n_window) == WINDOW, f"windows of {config.n_window} frames instead of {WINDOW}", "audio")
    extractor = {**MEL, **processor(folder, "feature_extractor")}
    wrong = [f"{key} {extractor[key]}" for key, value in MEL.items() if int(extractor[key]) != value]
    require(not wrong, f"its features have {', '.join(wrong)}", "audio")
    encoder = model.model.audio_tower

    def call(given: Tensors) -> list[torch.Tensor]:
        rows = encoded(encoder, given["input_features"], given["attention_mask"])
        if options.exact_positions:  # as wide as the token table's rows and the pictures'
            rows = torch.nn.functional.pad(rows, (0, MARKERS))
        return [rows[None]]

    return Tower(
        kind="audio",
        roots=("model.audio_tower",),
        inputs=(
            Given("input_features", lambda length: (1, MEL["feature_size"], CHUNK * length)),
            Given("attention_mask", lambda length: (1, WINDOW * length, WINDOW * length)),
        ),
        outputs=("audio_embeds",),
        call=call,
        engine={"is_audio": True, "audio_pad": int(model.config.audio_token_id)},
        preprocessing={
            **{key: int(extractor[key]) for key in MEL},
            "frames_per_token": FRAMES,
            "longest": min(LONGEST, int(extractor.get("chunk_length", LONGEST))),
            "before": token_text(folder, int(model.config.audio_start_token_id)),
            "after": token_text(folder, int(model.config.audio_end_token_id)),
        },
        notes=(FEATURES,),
    )


def encoded(encoder: Any, features: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """float32 [1, 128, T] and the attention's mask [1, ceil(T/2), ceil(T/2)] → [ceil(T/2) // 2, hidden]."""
    chunks, lengths = cut_into(features, CHUNK)
    found: torch.Tensor = encoder(
        padded_feature=chunks,
        chunk_lengths=lengths,
        valid_indices=numbers(features[0, :1, ::2, None]),
        pool_indices=2 * numbers(features[0, :1, 2::4, None]),
        cu_seqlens=mask,
        max_seqlen=1,
    ).last_hidden_state
    return found

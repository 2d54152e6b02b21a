"""Qwen2-Audio: Whisper's encoder over mel features of any length, without the padding to 30 seconds.

transformers' encoder takes 3,000 frames and nothing else, the silence behind a sound included; the engine feeds what
there is. A frame's number, not the table's length, decides which position it gets, so both agree on the same frames.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from transformers import PretrainedConfig

from pipeline.graph.decoder import Decoder
from pipeline.graph.model import Model
from pipeline.graph.towers.frames import numbers
from pipeline.graph.towers.tower import Given, Tensors, Tower, processor, require, token_ids
from pipeline.graph.tracer import Options

FRAMES = 4  # mel frames of one audio token: a convolution's stride of 2, and an average of pairs
MEL = {"feature_size": 128, "hop_length": 160, "n_fft": 400, "sampling_rate": 16000}
FEATURES = (
    "the engine's mel features differ from Hugging Face's by rounding in single quiet bins, and a sound is not padded "
    "to 30 seconds (docs/multimodal.md)"
)
AUDIO_TOKEN = "<|AUDIO|>"


def decoder(config: PretrainedConfig, options: Options) -> Decoder:
    """See tower.py."""
    return Decoder()


def tower(model: Model, folder: Path, options: Options) -> Tower:
    """See tower.py."""
    config = model.config.audio_config
    require(int(config.num_mel_bins) == MEL["feature_size"], f"{config.num_mel_bins} mel bins instead of 128", "audio")
    extractor = {**MEL, **processor(folder, "feature_extractor")}
    wrong = [f"{key} {extractor[key]}" for key, value in MEL.items() if int(extractor[key]) != value]
    require(not wrong, f"its features have {', '.join(wrong)}", "audio")
    root, encoder, projector = _parts(model)

    def call(given: Tensors) -> list[torch.Tensor]:
        features = given["input_features"]
        encoder.config.max_source_positions = (int(features.shape[2]) + 1) // 2
        encoder.__dict__["embed_positions"] = _Positions(encoder)  # before the module of that name
        hook = encoder.layers[0].register_forward_pre_hook(_add_positions(encoder))
        try:
            return [projector(encoder(features)[0])]
        finally:
            hook.remove()

    return Tower(
        kind="audio",
        roots=(root,),
        inputs=(Given("input_features", lambda length: (1, MEL["feature_size"], FRAMES * length)),),
        outputs=("audio_embeds",),
        call=call,
        engine={"is_audio": True, "audio_pad": audio_token(model.config, folder)},
        preprocessing={**{key: int(extractor[key]) for key in MEL}, "frames_per_token": FRAMES},
        notes=(FEATURES,),
    )


class _Positions:
    """Stands for the table while the encoder adds all of it: zero. The rows that there are frames for come after."""

    def __init__(self, encoder: Any) -> None:
        self.weight = torch.zeros(1)


def _add_positions(encoder: Any) -> Any:
    table = encoder._modules["embed_positions"].weight

    def hook(_: Any, arguments: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        hidden = arguments[0]
        return (hidden + F.embedding(numbers(hidden), table)[None], *arguments[1:])

    return hook


def _parts(model: Model) -> tuple[str, Any, Any]:
    """(the encoder's path, the encoder, what projects its output into the decoder's width)."""
    for path in ("audio_tower", "model.audio_tower"):
        parent = model.get_submodule(path.rpartition(".")[0])
        if hasattr(parent, "audio_tower"):
            return path, parent.audio_tower, parent.multi_modal_projector
    raise AssertionError("a Qwen2-Audio model has an audio tower")


def audio_token(config: PretrainedConfig, folder: Path) -> int:
    """The id that stands for a piece of sound in the prompt."""
    found = getattr(config, "audio_token_id", None)
    found = getattr(config, "audio_token_index", None) if found is None else found
    return int(token_ids(folder, [AUDIO_TOKEN])[AUDIO_TOKEN] if found is None else found)

"""A tiny random Qwen2-Audio, its product, and sounds that the tests make themselves."""

from __future__ import annotations

import json
import wave
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForMultimodalLM

from pipeline.recipe.schema import Recipe
from pipeline.verify import selfcheck
from tests.towers.models import TEXT, write_tokenizer

AUDIO = 300  # the token that stands for a piece of sound: one of the special ones of the tiny tokenizer's last ids
ENCODER = {
    "d_model": 64, "encoder_layers": 2, "encoder_attention_heads": 4, "encoder_ffn_dim": 128, "num_mel_bins": 128,
    "max_source_positions": 1500,
}  # fmt: skip


def write_model(folder: Path, **encoder: Any) -> Path:
    """The model's folder: weights that fp16 holds exactly, tokenizer, feature extractor."""
    torch.manual_seed(0)
    settings = AutoConfig.for_model(
        "qwen2_audio",
        text_config={**TEXT, "model_type": "qwen2"},
        audio_config={**ENCODER, **encoder},
        audio_token_index=AUDIO,
    )
    model = AutoModelForMultimodalLM.from_config(settings, dtype=torch.float32)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() >= 2:
                parameter.normal_(0, 1.0 if "embed" in name else float(parameter[0].numel()) ** -0.5)
            elif "norm" in name:
                parameter.add_(0.1 * torch.randn_like(parameter))
            else:
                parameter.normal_(0, 0.1)
            parameter.copy_(torch.nn.functional.hardshrink(parameter, 2.0**-12).bfloat16())
    model.tie_weights()
    model.to(torch.bfloat16).save_pretrained(folder)
    write_tokenizer(folder)
    extractor = {"feature_extractor_type": "WhisperFeatureExtractor", "feature_size": 128}
    (folder / "preprocessor_config.json").write_text(json.dumps(extractor))
    return folder


def load(folder: Path) -> Any:
    """The Hugging Face model in float32 with plain attention."""
    return AutoModelForMultimodalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()


def build(source: Path, work: Path) -> Path:
    """Through every stage but the proofs, in fp16; the product's folder."""
    return selfcheck.build(source, work, recipe(), encoders=("audio",))


def recipe() -> dict[str, Any]:
    """fp16, with the encoder."""
    whole = asdict(Recipe())
    whole["quant"] |= {"bits": 16, "block": 0}
    whole["model"]["modalities"] = ["audio"]
    return whole


def chirp(seconds: float, rate: int = 16000) -> np.ndarray:
    """A tone that rises from 200 Hz to 3 kHz over a little noise: every mel bin has something in it."""
    time = np.arange(int(seconds * rate)) / rate
    noise = 0.02 * np.random.default_rng(0).standard_normal(len(time))
    found: np.ndarray = (0.5 * np.sin(2 * np.pi * (200 * time + 1400 * time**2 / seconds)) + noise).astype(np.float32)
    return found


def write_wav(path: Path, samples: np.ndarray, rate: int = 16000, channels: int = 1) -> Path:
    """16-bit PCM; every channel holds the same."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((np.repeat(samples, channels) * 32767).astype("<i2").tobytes())
    return path

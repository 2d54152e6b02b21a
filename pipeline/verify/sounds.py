"""Parity on sounds: a small random model of the same kind, with its encoder, against Hugging Face.

The sounds are computed here, so they are the same everywhere. The engine makes its mel features itself, and they
differ from Hugging Face's by rounding. So logits of the prompt and of cached decode steps after it are compared twice:
with Hugging Face on the engine's own features, which is exact but for float32, and with Hugging Face on its own ones,
which tells what the difference of features costs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.graph.towers.tower_files import PROCESSORS
from pipeline.mnn.runner import Engine
from pipeline.verify import thinker
from pipeline.verify.metrics import Logits, relative_errors
from pipeline.verify.product import EXACT

RATE = 16000
SECONDS = 1.4  # 140 frames: Qwen2-Audio's encoder takes even numbers only in transformers
LONG = 4.37  # for Qwen2.5-Omni's, which cuts every two seconds: three chunks, and an odd number of frames
DECODE = (40, 99, 65, 120)
Features = Callable[[Logits], Logits]  # a sound, float32 [samples] → float32 [1, 128, frames]


def sine() -> Logits:
    """440 Hz with three overtones over a little noise, float32 [samples] within ±1."""
    time = np.arange(int(SECONDS * RATE)) / RATE
    tones = sum(np.sin(2 * np.pi * 440 * number * time) / number for number in range(1, 5))
    return np.asarray(0.3 * tones + _noise(len(time)), np.float32)


def chirp(seconds: float = SECONDS) -> Logits:
    """A tone that rises from 200 Hz to 3 kHz over a little noise, as long as `sine` if nothing is said."""
    time = np.arange(int(seconds * RATE)) / RATE
    phase = 2 * np.pi * (200 * time + 1400 * time**2 / seconds)
    return np.asarray(0.5 * np.sin(phase) + _noise(len(time)), np.float32)


def _noise(count: int) -> Any:
    """Digital silence has no finite features."""
    return 0.02 * np.random.default_rng(0).standard_normal(count)


def compare(product: Path, model: Any, source: Path, audio_token: int) -> dict[str, dict[str, float]]:
    """Errors relative to max|logit| by prompt ("sine", "chirp", "both"; "long" for an encoder that works in chunks).

    prefill_error, decode_error: on the engine's features. features_error: of both, on Hugging Face's own.
    product: of the model in folder `source`, in fp16. model: the same by Hugging Face, float32.
    """
    chunked = thinker.is_thinker(model)
    own = thinker.extractor(source) if chunked else extractor(source)
    asked = {"sine": [sine()], "chirp": [chirp()], "both": [chirp()[: RATE // 2], sine()]}
    if chunked:
        asked["long"] = [chirp(LONG)]
    found = {}
    with Engine(product, {**EXACT, "thread_num": 1}) as engine:
        for name, sounds in asked.items():
            ids, rows = engine_rows(engine, sounds)
            whole = [*ids, *DECODE]
            given = reference_rows(model, [engine.sound_features(sound) for sound in sounds], whole, audio_token)
            theirs = reference_rows(model, [own(sound) for sound in sounds], whole, audio_token)
            features = max(relative_errors(theirs, rows, len(ids)).values())
            found[name] = {**relative_errors(given, rows, len(ids)), "features_error": features}
    return found


def engine_rows(engine: Engine, sounds: Sequence[Logits]) -> tuple[list[int], Logits]:
    """(ids of the prompt, float32 [len(ids) + len(DECODE), vocabulary])."""
    text = prompt(len(sounds))
    ids = engine.tokenize_sounds(text, sounds)
    prefill = engine.logits(ids)
    engine.tokenize_sounds(text, sounds)  # the engine gave the encoder's rows away with the first prefill
    engine.prefill(ids)
    return ids, np.concatenate([prefill, np.stack([engine.step(token) for token in DECODE])])


def prompt(count: int) -> str:
    """A text with places for `count` sounds."""
    return "Hear " + " and ".join(f"<audio>audio_{number}</audio>" for number in range(count)) + " here?"


def extractor(source: Path) -> Features:
    """Hugging Face's features, without the padding to 30 seconds that the engine does not have."""
    from transformers import WhisperFeatureExtractor

    kind: Any = WhisperFeatureExtractor
    described = any((source / name).is_file() for name in PROCESSORS)
    whisper = kind.from_pretrained(source) if described else kind(feature_size=128)

    def features(sound: Logits) -> Logits:
        found = whisper(sound, sampling_rate=RATE, padding=False, return_tensors="np")["input_features"]
        return np.asarray(found, np.float32)

    return features


def reference_rows(model: Any, features: Sequence[Logits], ids: Sequence[int], audio_token: int) -> Logits:
    """float32 [len(ids), vocabulary] by Hugging Face's encoder on `features` and its decoder over the whole."""
    import torch

    if thinker.is_thinker(model):
        return thinker.rows(model, ids, features)
    base = model.model if hasattr(model.model, "audio_tower") else model
    tokens = torch.tensor([list(ids)])
    with torch.inference_mode():
        heard = []
        for one in features:
            with _as_long(base.audio_tower, one.shape[2]):
                encoded = base.audio_tower(torch.tensor(one)).last_hidden_state
            heard.append(base.multi_modal_projector(encoded)[0])
        embedded = model.get_input_embeddings()(tokens).clone()
        embedded[tokens == audio_token] = torch.cat(heard)
        logits: Logits = model(inputs_embeds=embedded, use_cache=False).logits[0].float().numpy()
    return logits


@contextmanager
def _as_long(tower: Any, frames: int) -> Iterator[None]:
    """Hugging Face's encoder for sounds of `frames` mel frames: it takes as many as it has positions for, twice."""
    import torch

    embedding: Any = torch.nn.Embedding
    table, longest = tower.embed_positions, tower.config.max_source_positions
    tower.config.max_source_positions = frames // 2
    tower.embed_positions = embedding.from_pretrained(table.weight[: frames // 2])
    try:
        yield
    finally:
        tower.embed_positions, tower.config.max_source_positions = table, longest

"""Qwen2-Audio on the engine: the encoder, and sound and text together, against Hugging Face's own code."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pipeline.errors import UserError
from pipeline.graph.towers.export import export
from pipeline.graph.tracer import Options
from pipeline.mnn.runner import Engine
from pipeline.stages import checkpoint
from pipeline.use.media import encode
from pipeline.use.sound import read_sound
from tests.graph.product import Silent
from tests.towers.audio_models import AUDIO, build, chirp, load, write_model, write_wav

torch.set_num_threads(1)
EXACT = {"precision": "high", "memory": "normal", "thread_num": 1}
PROMPT = "<|im_start|>user\nhear <audio>{}</audio> this<|im_end|>\n"
# Runs in a process of its own, as everything native: an encoder on inputs, or the engine's mel features of waves.
CHILD = """
import os, pickle, sys
import numpy as np, MNN.nn as nn, MNN.expr as F, MNN.audio as audio
what, path, given, out = sys.argv[1:5]
found = []
if what == "encoder":
    manager = nn.create_runtime_manager(({"backend": "CPU", "precision": "high", "memory": "normal", "numThread": 1},))
    manager.set_external(path + ".weight")
    module = nn.load_module_from_file(path, ["input_features"], ["audio_embeds"], runtime_manager=manager)
for one in pickle.load(open(given, "rb")):
    if what == "encoder":
        value = module.forward([F.const(one.tolist(), list(one.shape), F.NCHW, F.float)])
        value = value[0] if isinstance(value, (list, tuple)) else value
    else:
        value = audio.whisper_fbank(F.const(one.tolist(), [len(one)], F.NHWC, F.float), 16000, 128, 400, 160, 0)
    found.append(np.array(F.convert(value, F.NCHW).read()).copy())
pickle.dump(found, open(out, "wb"))
sys.stdout.flush()
os._exit(0)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("qwen2-audio") / "source")


@pytest.fixture(scope="module")
def product(folder: Path) -> Path:
    return build(folder, folder.parent / "work")


@pytest.fixture(scope="module")
def model(folder: Path) -> Any:
    return load(folder)


def native(what: str, path: Path, given: Sequence[np.ndarray], tmp_path: Path) -> list[np.ndarray]:
    (tmp_path / "in").write_bytes(pickle.dumps(list(given)))
    command = [sys.executable, "-c", CHILD, what, str(path), str(tmp_path / "in"), str(tmp_path / "out")]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=120)
    found: list[np.ndarray] = pickle.loads((tmp_path / "out").read_bytes())
    return found


def heard(model: Any, features: np.ndarray) -> torch.Tensor:
    """The encoder's own modules over [1, 128, T] of any T: its forward allows 3,000 frames only."""
    tower = model.model.audio_tower
    with torch.inference_mode():
        hidden = F.gelu(tower.conv2(F.gelu(tower.conv1(torch.tensor(features))))).permute(0, 2, 1)
        hidden = hidden + tower.embed_positions.weight[: hidden.shape[1]]
        for layer in tower.layers:
            result = layer(hidden, None)
            hidden = result[0] if isinstance(result, tuple) else result
        hidden = tower.layer_norm(tower.avg_pooler(hidden.permute(0, 2, 1)).permute(0, 2, 1))
        found: torch.Tensor = model.model.multi_modal_projector(hidden)
    return found


def test_the_yardstick_is_hugging_faces_forward(model: Any) -> None:
    features = np.random.default_rng(0).standard_normal((1, 128, 3000)).astype(np.float32)
    with torch.inference_mode():
        whole = model.model.multi_modal_projector(model.model.audio_tower(torch.tensor(features))[0])
    assert torch.equal(heard(model, features), whole)


def test_the_encoder_at_any_length(model: Any, product: Path, tmp_path: Path) -> None:
    lengths = (337, 101, 100, 1000, 3000, 5)
    inputs = [np.random.default_rng(n).standard_normal((1, 128, n)).astype(np.float32) for n in lengths]
    for features, found in zip(inputs, native("encoder", product / "audio.mnn", inputs, tmp_path), strict=True):
        expected = heard(model, features).numpy()
        assert found.shape == expected.shape
        assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()


def logits(model: Any, ids: Sequence[int], rows: torch.Tensor) -> np.ndarray:
    """Hugging Face's decoder over text, with `rows` [1, n, hidden] in the sound's places."""
    tokens = torch.tensor([list(ids)])
    with torch.inference_mode():
        embedded = model.get_input_embeddings()(tokens).clone()
        embedded[tokens == AUDIO] = rows[0]
        found: np.ndarray = model(inputs_embeds=embedded).logits[0].numpy()
    return found


def test_sound_and_text_together(model: Any, product: Path, tmp_path: Path) -> None:
    """On the engine's own features the whole is exact; the features' difference is the only one, and is measured."""
    path = write_wav(tmp_path / "chirp.wav", chirp(3.37))
    samples = read_sound(path)
    mel = native("mel", path, [samples], tmp_path)[0].reshape(1, 128, -1)
    with Engine(product, EXACT) as engine:
        prompt = encode(engine, PROMPT.format(path))
        assert prompt.fresh
        rows = heard(model, mel)
        assert prompt.ids.count(AUDIO) == rows.shape[1]
        found = engine.logits(prompt.ids)
        plain = engine.tokenize(PROMPT.format("").replace("<audio></audio>", ""))
        assert [token for token in prompt.ids if token != AUDIO] == plain
    expected = logits(model, prompt.ids, rows)
    assert np.abs(found - expected).max() < 1e-3 * np.abs(expected).max()


def test_two_sounds_and_the_cache_afterwards(model: Any, product: Path, tmp_path: Path) -> None:
    paths = [write_wav(tmp_path / f"{seconds}.wav", chirp(seconds)) for seconds in (0.5, 1.2)]
    text = "".join(PROMPT.format(path) for path in paths)
    waves = [read_sound(path) for path in paths]
    rows = torch.cat([heard(model, mel.reshape(1, 128, -1)) for mel in native("mel", product, waves, tmp_path)], 1)
    with Engine(product, EXACT) as engine:
        ids = encode(engine, text).ids
        last = engine.prefill(ids)
        step = engine.step(65)
        again = engine.prefill(encode(engine, text).ids)
    expected = logits(model, [*ids, 65], rows)
    for found, row in ((last, -2), (again, -2), (step, -1)):
        assert np.abs(found - expected[row]).max() < 1e-3 * np.abs(expected).max()


def test_features_against_hugging_faces_extractor(product: Path, tmp_path: Path) -> None:
    """What cannot be removed from outside the engine: single quiet bins, by its float32 transform."""
    from transformers import WhisperFeatureExtractor

    extractor = WhisperFeatureExtractor(feature_size=128)
    for seconds in (1.0, 3.37):
        wave = chirp(seconds)
        theirs = extractor(wave, sampling_rate=16000, padding=False, return_tensors="np")["input_features"]
        ours = native("mel", product, [wave], tmp_path)[0].reshape(theirs.shape)
        difference = np.abs(ours - theirs)
        assert np.sqrt((difference**2).mean()) < 0.01
        assert difference.max() < 0.25


def test_what_the_engine_cannot_take_is_refused(tmp_path: Path) -> None:
    source = write_model(tmp_path / "source", num_mel_bins=80)
    out = tmp_path / "checkpoint"
    out.mkdir()
    checkpoint.run({"adapter": {"mode": "none", "weight": 1.0}, "model": {}}, {"source": source}, out, Silent())
    with pytest.raises(UserError, match=r"80 mel bins.*audio\.mode=off"):
        export("audio", out, tmp_path, Options())


def test_the_products_files_say_what_they_hold(product: Path) -> None:
    config = json.loads((product / "llm_config.json").read_text())
    assert config["is_audio"] is True
    assert config["audio_pad"] == AUDIO
    assert json.loads((product / "config.json").read_text())["audio_model"] == "audio.mnn"
    assert json.loads((product / "audio.json").read_text())["sampling_rate"] == 16000

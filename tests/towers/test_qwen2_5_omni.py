"""Qwen2.5-Omni's thinker on the engine: each encoder by itself, sounds and pictures in one prompt, what is left out."""

from __future__ import annotations

import base64
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoConfig, AutoImageProcessor, WhisperFeatureExtractor
from transformers.models.qwen2_5_omni.processing_qwen2_5_omni import _get_feat_extract_output_lengths
from transformers.vision_utils import get_vision_position_ids, get_vision_window_index

from pipeline.build.config import subset
from pipeline.errors import UserError
from pipeline.graph.towers import families
from pipeline.graph.towers.export import export
from pipeline.graph.tracer import Options
from pipeline.mnn.runner import Engine
from pipeline.stages import audio_selfcheck, checkpoint
from pipeline.use.media import encode, picture_tag, tag
from pipeline.use.sound import read_sound
from pipeline.verify import sound_checks, thinker
from pipeline.verify.pictures import DECODE, draw
from pipeline.verify.selfcheck import build
from pipeline.verify.shrink import shrink
from tests.towers import native
from tests.towers.audio_models import chirp, write_wav
from tests.towers.models import AFTER, AUDIO, BEFORE, CONFIGS, END, IMAGE, START, load, write_model
from tests.towers.product import recipe
from tests.verify.helpers import MODEL, TARGET, Notes

torch.set_num_threads(1)
EXACT = {"precision": "high", "memory": "normal", "thread_num": 1}
LOWEST = np.finfo(np.float32).min
HIDDEN = 128


@dataclass(frozen=True)
class Built:
    """The whole model's folder, the thinker of it by transformers, the stages' folders and the product."""

    source: Path
    model: Any
    work: Path
    product: Path


def built(source: Path, work: Path, **sections: Mapping[str, Any]) -> Built:
    """Through the stages in fp16; `sections`: keys of the recipe's."""
    whole = recipe()
    whole["model"]["modalities"] = ["visual", "audio"]
    for name, keys in sections.items():
        whole[name] |= keys
    encoders = [kind for kind in ("visual", "audio") if whole[kind]["mode"] == "auto"]
    return Built(source, load(source), work, build(source, work, whole, encoders=encoders))


@pytest.fixture(scope="module")
def omni(tmp_path_factory: pytest.TempPathFactory) -> Built:
    root = tmp_path_factory.mktemp("omni")
    return built(write_model("qwen2_5_omni", root / "source"), root)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """tall.png, wide.png; short.wav, and long.wav of three chunks of which the last frame is not whole."""
    folder = tmp_path_factory.mktemp("files")
    draw(252, 150).save(folder / "tall.png")
    draw(190, 252).save(folder / "wide.png")
    write_wav(folder / "short.wav", chirp(0.73))
    write_wav(folder / "long.wav", chirp(4.371)[::-1])
    return folder


def masked(boundaries: Sequence[int]) -> np.ndarray:
    """float32 [n, n]: 0 within each run of tokens, the lowest number elsewhere."""
    mask = np.full((boundaries[-1], boundaries[-1]), LOWEST, np.float32)
    for start, stop in itertools.pairwise(boundaries):
        mask[start:stop, start:stop] = 0
    return mask


def test_the_sound_encoder_at_any_length(omni: Built, tmp_path: Path) -> None:
    """Whole chunks of 200 mel frames (100 after the convolutions), a chunk begun, and one frame more or less."""
    lengths = (3, 101, 199, 200, 201, 337, 400, 1003)
    features = [np.random.default_rng(n).standard_normal((1, 128, n)).astype(np.float32) for n in lengths]
    halves = [(n + 1) // 2 for n in lengths]
    masks = [masked([*range(0, half, 100), half])[None] for half in halves]
    cases = [{"input_features": f, "attention_mask": m} for f, m in zip(features, masks, strict=True)]
    found = native.run(omni.product / "audio.mnn", "audio_embeds", cases, tmp_path)
    for one, rows in zip(features, found, strict=True):
        with torch.inference_mode():
            mask = torch.ones(1, one.shape[2], dtype=torch.long)
            expected = omni.model.get_audio_features(torch.tensor(one), mask).last_hidden_state.numpy()
        assert rows.shape == (1, len(expected), HIDDEN + 4)
        assert not rows[0, :, HIDDEN:].any()  # to the decoder's positions a sound is text
        assert np.abs(rows[0, :, :HIDDEN] - expected).max() < 1e-4 * np.abs(expected).max()  # measured: below 1e-6


def test_the_vision_encoder(omni: Built, tmp_path: Path) -> None:
    grids = [torch.tensor([[1, *grid]]) for grid in ((14, 18), (18, 10), (2, 2), (4, 30))]
    cases, expected = [], []
    for number, grid in enumerate(grids):
        count = int(grid.prod())
        pixels = np.random.default_rng(number).standard_normal((count, 3 * 2 * 14 * 14)).astype(np.float32)
        order, windows = get_vision_window_index(grid, spatial_merge_size=2, window_size=112, patch_size=14)
        positions = get_vision_position_ids(grid, 2)
        mask = np.stack([masked([0, count]), masked(sorted(set(windows.tolist())))])[:, None]
        cases.append({"patches": pixels, "position_ids": positions.T.numpy().astype(np.int32), "attention_mask": mask,
                      "window_index": order.numpy().astype(np.int32)})  # fmt: skip
        with torch.inference_mode():
            expected.append(omni.model.get_image_features(torch.tensor(pixels), grid).pooler_output[0].numpy())
    for rows, wanted in zip(
        native.run(omni.product / "visual.mnn", "image_embeds", cases, tmp_path), expected, strict=True
    ):
        assert rows.shape == (len(wanted), 1, HIDDEN + 4)
        assert np.abs(rows[:, 0, :HIDDEN] - wanted).max() < 1e-4 * np.abs(wanted).max()  # measured: below 1e-6


PROMPTS = {
    "picture": "look {tall} here",
    "sound": "hear {long} here",
    "picture, sound": "see {tall} and hear {long} now",
    "sound, picture": "{short}{tall} so",
    "two of each": "{short}x{wide}{long}{tall} what",
}


def asked(prompt: str, files: Path) -> tuple[str, list[Path], list[Path]]:
    """(the prompt with its tags, the sounds' files, the pictures')."""
    pieces = {path.stem: path for path in files.iterdir()}
    order = sorted((name for name in pieces if f"{{{name}}}" in prompt), key=lambda name: prompt.index(f"{{{name}}}"))
    named = [pieces[name] for name in order]
    tags = {path.stem: f"<{'img' if path.suffix == '.png' else 'audio'}>{path}</" for path in named}
    tags = {name: f"{tag}{'img' if '<img>' in tag else 'audio'}>" for name, tag in tags.items()}
    sounds = [path for path in named if path.suffix == ".wav"]
    return prompt.format(**tags), sounds, [path for path in named if path.suffix == ".png"]


def pixels(source: Path, pictures: Sequence[Path]) -> dict[str, Any]:
    if not pictures:
        return {}
    processor: Any = AutoImageProcessor.from_pretrained(str(source), backend="pil")
    return dict(processor(images=[Image.open(path).convert("RGB") for path in pictures], return_tensors="pt"))


def errors(omni: Built, prompt: str, files: Path) -> dict[str, float]:
    """Shares of max|logit|, of all positions of the prompt and of decode steps after it, by whose features are used."""
    text, sounds, pictures = asked(prompt, files)
    with Engine(omni.product, EXACT) as engine:
        ids = encode(engine, text).ids
        prefill = engine.logits(ids)
        assert encode(engine, text).fresh  # and the engine gave the encoders' rows away with the first prefill
        engine.prefill(ids)
        rows = np.concatenate([prefill, np.stack([engine.step(token) for token in DECODE])])
        waves = [read_sound(path) for path in sounds]
        given = [engine.sound_features(np.pad(wave, (0, -len(wave) % 160))) for wave in waves]
    own = [thinker.extractor(omni.source)(wave) for wave in waves]
    assert [one.shape for one in own] == [one.shape for one in given]
    found = {}
    for whose, features in {"engine": given, "transformers": own}.items():
        expected = thinker.rows(omni.model, [*ids, *DECODE], features, pixels(omni.source, pictures))
        error = np.abs(rows - expected).max(1) / np.abs(expected).max()
        found[f"{whose}, prefill"] = float(error[: len(ids)].max())
        found[f"{whose}, decode"] = float(error[len(ids) :].max())
    return found


@pytest.mark.parametrize("prompt", PROMPTS.values(), ids=PROMPTS)
def test_logits_are_hugging_faces(prompt: str, omni: Built, files: Path) -> None:
    """On the engine's own mel features everything is; with Hugging Face's the features' difference shows."""
    found = errors(omni, prompt, files)
    assert max(found["engine, prefill"], found["engine, decode"]) < 1e-5, found  # measured: below 2e-6
    assert max(found["transformers, prefill"], found["transformers, decode"]) < 0.01, found  # measured: below 5e-4


def test_the_features_are_the_processors(omni: Built, files: Path) -> None:
    wave = read_sound(files / "long.wav")
    processor = WhisperFeatureExtractor.from_pretrained(omni.source)  # type: ignore[no-untyped-call]
    told = processor(wave, sampling_rate=16000, padding="max_length", return_attention_mask=True, return_tensors="np")
    assert told["input_features"].shape[2] == 30_000  # frames of 300 seconds
    expected = told["input_features"][:, :, told["attention_mask"][0].astype(bool)]
    assert np.array_equal(thinker.extractor(omni.source)(wave), expected)


def test_how_far_the_features_are_apart(omni: Built, files: Path) -> None:
    wave = read_sound(files / "long.wav")
    with Engine(omni.product, EXACT) as engine:
        ours = engine.sound_features(np.pad(wave, (0, -len(wave) % 160)))
    difference = np.abs(ours - thinker.extractor(omni.source)(wave))
    assert np.sqrt((difference**2).mean()) < 0.01  # measured: 0.0025
    assert difference.max() < 0.25  # measured: 0.16


def test_a_prompt_is_the_models_own(omni: Built, files: Path) -> None:
    """transformers' processor puts these tokens where the template has one picture and one sound."""
    text, _, _ = asked("a{tall}b{short}", files)
    with Engine(omni.product, EXACT) as engine:
        ids = encode(engine, text).ids
        a, b = engine.tokenize("a"), engine.tokenize("b")
        sound = [BEFORE, *[AUDIO] * int(_get_feat_extract_output_lengths(73)), AFTER]  # of 0.73 s
        assert ids == [*a, START, *[IMAGE] * 9 * 5, END, *b, *sound]
        typed = text.replace("<audio>", "<|audio_bos|><audio>").replace("</audio>", "</audio><|audio_eos|>")
        assert encode(engine, typed).ids == ids
        wave = read_sound(files / "short.wav")
        url = "data:image/png;base64," + base64.b64encode((files / "tall.png").read_bytes()).decode()
        assert encode(engine, f"a{picture_tag(0)}b{tag(0)}", [wave], pictures=[url]).ids == ids  # the server's way
        for stranger in (text, f"{picture_tag(0)}{tag(1)}", f"{picture_tag(0)}"):
            with pytest.raises(UserError, match="may not hold"):
                encode(engine, stranger, [wave], pictures=[url])
        for wrong, reason in (
            ("<|AUDIO|>", "sound token itself"),
            ("<|image_pad|>", "image token itself"),
            (f"{text}<|AUDIO|>", "sound token itself"),
            ("<video>a.mp4</video>", "videos are not taken"),
            ("<audio>/no/such.wav</audio>", "cannot be read"),
        ):
            with pytest.raises(UserError, match=reason):
                encode(engine, wrong)
        assert encode(engine, text).ids == ids


def test_sounds_may_be_longer_than_thirty_seconds(omni: Built, tmp_path: Path) -> None:
    write_wav(tmp_path / "a.wav", chirp(31))
    with Engine(omni.product, EXACT) as engine:
        assert encode(engine, f"<audio>{tmp_path / 'a.wav'}</audio>").ids.count(AUDIO) == 31 * 25
        write_wav(tmp_path / "a.wav", chirp(121))
        with pytest.raises(UserError, match=r"121\.0 s; the model hears 120 s"):
            encode(engine, f"<audio>{tmp_path / 'a.wav'}</audio>")
        with pytest.raises(UserError, match=r"121\.0 s; the model hears 120 s"):
            encode(engine, "<audio>0</audio>", [chirp(121)], pictures=[])


def test_with_the_engines_positions_sounds_alone_are_right(omni: Built, tmp_path: Path, files: Path) -> None:
    """And rows are as wide as the model's own: half-precision targets get this product."""
    one = built(omni.source, tmp_path, visual={"positions": "engine"})
    assert json.loads((one.product / "llm_config.json").read_text())["hidden_size"] == HIDDEN
    alone = errors(one, PROMPTS["sound"], files)
    assert max(alone["engine, prefill"], alone["engine, decode"]) < 1e-5
    assert errors(one, PROMPTS["picture, sound"], files)["engine, prefill"] > 1e-3
    assert "visual.positions=engine" in json.loads((tmp_path / "visual_graph" / "layout.json").read_text())["notes"][0]


@pytest.mark.parametrize(
    ("off", "prompt", "reason"), [("audio", "{short}", "hears no sound"), ("visual", "{wide}", "sees no picture")]
)
def test_one_sense_may_be_left_out(
    off: str, prompt: str, reason: str, omni: Built, tmp_path: Path, files: Path
) -> None:
    one = built(omni.source, tmp_path, **{off: {"mode": "off"}})
    with Engine(one.product, EXACT) as engine, pytest.raises(UserError, match=reason):
        encode(engine, asked(prompt, files)[0])
    found = errors(one, PROMPTS["picture" if off == "audio" else "sound"], files)
    assert max(found["engine, prefill"], found["engine, decode"]) < 1e-5


def test_what_speaks_is_left_out_and_said_so(omni: Built) -> None:
    listed = json.loads((omni.work / "checkpoint" / "tensors.json").read_text())["tensors"]
    assert {name.partition(".")[0] for name in listed} == {"thinker"}
    assert json.loads((omni.source / "config.json").read_text())["token2wav_config"]
    assert json.loads((omni.work / "checkpoint" / "config.json").read_text())["model_type"] == "qwen2_5_omni_thinker"
    layout = json.loads((omni.work / "graph" / "layout.json").read_text())
    assert "talker and token2wav" in layout["notes"][0]
    assert layout["is_mrope"]
    assert "last frame" in json.loads((omni.work / "audio_graph" / "layout.json").read_text())["notes"][0]


def test_both_encoders_quantised(omni: Built, tmp_path: Path, files: Path) -> None:
    one = built(omni.source, tmp_path, visual={"bits": 8}, audio={"bits": 8})
    for kind, kept in (("visual", {"patch_embed.proj"}), ("audio", {"audio_tower.conv1", "audio_tower.conv2"})):
        linears = json.loads((tmp_path / f"{kind}_weights" / "weights.json").read_text())["linears"]
        wide = {name for name, entry in linears.items() if entry["bits"] == 16}
        assert {".".join(name.split(".")[-2:]) for name in wide} == kept
    found = errors(one, PROMPTS["two of each"], files)
    assert 1e-5 < found["engine, prefill"] < 0.1


@pytest.mark.parametrize(
    ("change", "reason"),
    [({"n_window": 50}, r"windows of 50 frames.*audio\.mode=off"), ({"num_mel_bins": 80}, "80 mel bins")],
)
def test_what_the_engine_cannot_take_is_refused(change: dict[str, int], reason: str, tmp_path: Path) -> None:
    whole = CONFIGS["qwen2_5_omni"]["thinker_config"]
    changed = {**whole, "audio_config": {**whole["audio_config"], **change}}
    source, out = write_model("qwen2_5_omni", tmp_path / "source", thinker_config=changed), tmp_path / "checkpoint"
    out.mkdir()
    checkpoint.run({"adapter": {"mode": "none", "weight": 1.0}, "model": {}}, {"source": source}, out, Notes())
    with pytest.raises(UserError, match=reason):
        export("audio", out, tmp_path, Options())


def test_whole_and_thinker_are_one_family(omni: Built) -> None:
    whole = json.loads((omni.source / "config.json").read_text())
    assert families.modalities(whole) == families.modalities(whole["thinker_config"]) == ["visual", "audio"]
    assert families.adapters("qwen2_5_omni") == families.adapters("qwen2_5_omni_thinker")
    families.check(whole, {"visual": True, "audio": True})


def test_the_gate_hears(omni: Built, tmp_path: Path) -> None:
    """Of the small copy: longer than a chunk, too. tests/towers/test_pictures.py has the same for pictures."""
    whole = recipe() | {"target": TARGET}
    whole["model"] |= MODEL
    audio_selfcheck.run(subset(whole, audio_selfcheck.STAGE.config), {"checkpoint": omni.work / "checkpoint"}, tmp_path,
                        Notes())  # fmt: skip
    told = json.loads((tmp_path / "sounds.json").read_text())
    assert set(told["sounds"]) == {"sine", "chirp", "both", "long"}
    checks = sound_checks.selfcheck_checks(told, 1e-5, 0.02)
    assert all(check.passed for check in checks), checks
    weights = json.loads((omni.work / "audio_weights" / "weights.json").read_text())
    assert all(check.passed for check in sound_checks.product_checks(omni.product, weights, 1))


def test_the_small_copy_of_a_big_model_is_small() -> None:
    text = {"hidden_size": 2048, "num_attention_heads": 16, "num_key_value_heads": 2, "num_hidden_layers": 36}
    small = shrink(AutoConfig.for_model("qwen2_5_omni_thinker", text_config=text)).config
    assert small.audio_config.encoder_layers == 2
    assert small.vision_config.depth == 2
    assert small.audio_config.output_dim == small.vision_config.out_hidden_size == small.text_config.hidden_size
    ids = (small.audio_token_id, small.audio_start_token_id, small.audio_end_token_id, small.image_token_id)
    assert len(set(ids)) == 4
    assert max(ids) < small.text_config.vocab_size

"""The gate of a product with a sound encoder: through the stages with a tiny Qwen2-Audio, right and broken."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig

from pipeline.build.config import subset
from pipeline.build.nodes import build_graph
from pipeline.errors import StageFailed
from pipeline.recipe.schema import Thresholds
from pipeline.stages import audio_selfcheck, parity, quality, reference
from pipeline.stages.registry import stages
from pipeline.verify import encoder_checks, sound_checks, sounds
from pipeline.verify.random_model import random_model
from pipeline.verify.shrink import shrink
from tests.towers.audio_models import AUDIO, build, load, recipe, write_model
from tests.verify.helpers import MODEL, TARGET, Notes, verify_options

torch.set_num_threads(1)
LIMITS = Thresholds()


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The stages' outputs by name, `source` and `product`: all that the gate reads, the self-check's result too."""
    root = tmp_path_factory.mktemp("audio")
    source = write_model(root / "source")
    found = {"source": source, "product": build(source, root)}
    names = {edge.stage for edge in quality.STAGE.inputs}
    found |= {name: root / name for name in names if (root / name).is_dir()} | {"checkpoint": root / "checkpoint"}
    whole = recipe() | {"verify": verify_options(), "target": TARGET}
    whole["model"] |= MODEL
    for module in (reference, parity, audio_selfcheck):
        out = root / module.STAGE.name
        out.mkdir()
        module.run(subset(whole, module.STAGE.config), found, out, Notes())
        found[module.STAGE.name] = out
    found["selfcheck"] = root / "selfcheck"
    found["selfcheck"].mkdir()
    (found["selfcheck"] / "selfcheck.json").write_text('{"error": 2e-6}')
    return found


def gate(folders: dict[str, Path], out: Path) -> tuple[dict[str, Any], str]:
    """The report's checks by name, and the refusal."""
    out.mkdir()
    verify = verify_options()
    verify["thresholds"]["16"] |= {"selfcheck_sound_error": LIMITS.selfcheck_sound_error, "max_kld": 1e-4}
    inputs = {edge.stage: folders[edge.stage] for edge in quality.STAGE.inputs if edge.stage in folders}
    said = ""
    try:
        quality.run({"quant": {"bits": 16}, "verify": verify}, inputs, out, Notes())
    except StageFailed as refusal:
        said = str(refusal)
    report = json.loads((out / "report.json").read_text())
    assert report["passed"] is not bool(said)
    return {check["name"]: check for check in report["checks"]}, said


def broken(folder: Path, to: Path, edit: Any) -> Path:
    """A copy of a stage's folder, or of a product, whose audio.mnn.weight has other bytes."""
    shutil.copytree(folder, to)
    content = bytearray((to / "audio.mnn.weight").read_bytes())
    (to / "audio.mnn.weight").write_bytes(edit(content))
    return to


def test_a_right_product_passes(folders: dict[str, Path], tmp_path: Path) -> None:
    checks, said = gate(folders, tmp_path / "out")
    assert not said
    for prompt in ("sine", "chirp", "both"):
        for part in ("prefill error", "decode error"):
            check = checks[f"sound self-check, {prompt}, {part}"]
            assert check["value"] < 1e-5, check  # measured: 1.1e-6
            assert check["limit"] == LIMITS.selfcheck_logit_error
        check = checks[f"sound self-check, {prompt}, error with Hugging Face's own features"]
        assert 1e-4 < check["value"] < 0.01, check  # measured: 6e-3
        assert check["limit"] == LIMITS.selfcheck_sound_error
        assert "docs/multimodal.md" in check["reason"]
    assert checks["audio weight file size"]["passed"]
    assert checks["logits after a sound"]["value"] == "finite"
    assert checks["change of the logits with the sound"]["value"] > 0.01


def test_a_file_that_is_cut_short_never_meets_the_engine(folders: dict[str, Path], tmp_path: Path) -> None:
    product = broken(folders["product"], tmp_path / "product", lambda content: content[:-64])
    weights = json.loads((folders["audio_weights"] / "weights.json").read_text())
    (size,) = sound_checks.product_checks(product, weights, 1)
    assert (size.name, size.passed) == ("audio weight file size", False)
    assert size.value == size.limit - 64


def test_an_encoder_of_nothing_but_zeros_hears_nothing(folders: dict[str, Path], tmp_path: Path) -> None:
    deaf = broken(folders["audio_weights"], tmp_path / "weights", lambda content: bytes(len(content)))
    _, said = gate({**folders, "audio_weights": deaf}, tmp_path / "out")
    assert "change of the logits with the sound = 0" in said


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_logits_that_are_no_numbers(wrong: float) -> None:
    right = np.ones(4, np.float32)
    finite, moved = encoder_checks.dependence("sound", right, np.array([1, 2, wrong, 3], np.float32))
    assert (finite.value, finite.passed) == ("not finite", False)
    assert moved.passed is False
    finite, moved = encoder_checks.dependence("sound", right, right * np.float32(1.00001))
    assert (finite.passed, moved.passed) == (True, False)


def test_one_wrong_matrix_of_the_encoder_fails_the_self_check(folders: dict[str, Path], tmp_path: Path) -> None:
    """The halves of one matrix's rows change places: every figure is above its limit."""
    place = place_of(folders["audio_weights"], "layers.1.self_attn.v_proj")
    product = broken(folders["product"], tmp_path / "product", lambda content: _swapped(content, place))
    found = sounds.compare(product, load(folders["source"]), folders["source"], AUDIO)
    for errors in found.values():
        assert errors["prefill_error"] > 10 * LIMITS.selfcheck_logit_error
        assert errors["decode_error"] > 10 * LIMITS.selfcheck_logit_error
    limits = LIMITS.selfcheck_logit_error, LIMITS.selfcheck_sound_error
    checks = sound_checks.selfcheck_checks({"sounds": found}, *limits)
    assert not any(check.passed for check in checks)


def test_features_of_another_kind_fail_their_own_limit(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit for features is wide enough for rounding and no wider: one frame too late is above it."""
    exact = sounds.extractor(folders["source"])
    monkeypatch.setattr(sounds, "extractor", lambda source: lambda sound: np.roll(exact(sound), 1, axis=2))
    found = sounds.compare(folders["product"], load(folders["source"]), folders["source"], AUDIO)
    assert min(errors["features_error"] for errors in found.values()) > LIMITS.selfcheck_sound_error
    assert max(errors["prefill_error"] for errors in found.values()) < 1e-5


def test_the_sounds_are_the_same_everywhere_and_can_be_heard() -> None:
    for make in (sounds.sine, sounds.chirp):
        sound = make()
        assert sound.dtype == np.float32
        assert len(sound) % 320 == 0  # an even number of frames, of which there is one for 160 samples
        assert 0.2 < np.abs(sound).max() < 1
        assert np.array_equal(sound, make())
    assert not np.array_equal(sounds.sine(), sounds.chirp())


def test_the_small_copy_of_a_big_model_is_small() -> None:
    text = {"model_type": "qwen2", "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32}
    small = shrink(AutoConfig.for_model("qwen2_audio", text_config=text)).config
    assert small.audio_config.encoder_layers == 2
    assert small.audio_token_id < small.text_config.vocab_size


def test_what_follows_the_convolutions_is_not_drowned_in_them(folders: dict[str, Path]) -> None:
    network = random_model(AutoConfig.from_pretrained(folders["source"]))
    encoder = network.model.audio_tower
    for kernel in (encoder.conv1.weight, encoder.conv2.weight):
        assert float(kernel[0].numel() * kernel.detach().var()) == pytest.approx(1, rel=0.1)


def test_who_gets_this_proof(tmp_path: Path) -> None:
    def names(**changes: Any) -> set[str]:
        whole = recipe() | {"name": "x"}
        for section, values in changes.items():
            whole[section] |= values
        (product,) = build_graph([whole], stages(), tmp_path).products
        return set(product.nodes)

    assert "audio_selfcheck" in names()
    assert "visual_selfcheck" not in names()
    assert "audio_selfcheck" not in names(verify={"mode": "off"})
    assert "audio_selfcheck" not in names(audio={"mode": "off"})


def place_of(folder: Path, end: str) -> list[int]:
    """[offset, bytes] in audio.mnn.weight of the linear whose name ends so."""
    entries = json.loads((folder / "weights.json").read_text())["linears"]
    (found,) = [entry["external"][:2] for name, entry in entries.items() if name.endswith(end)]
    return list(found)


def _swapped(content: bytearray, place: list[int]) -> bytearray:
    """The halves of a matrix's rows change places."""
    start, half = place[0], place[1] // 2
    content[start : start + 2 * half] = content[start + half : start + 2 * half] + content[start : start + half]
    return content

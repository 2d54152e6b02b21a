"""MiniCPM-V 4.6 beside tests/towers/test_pictures.py: grids of any shape, slices, prompts, refusals, the small copy."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoConfig, PreTrainedTokenizerFast
from transformers.models.minicpmv4_6.image_processing_pil_minicpmv4_6 import MiniCPMV4_6ImageProcessorPil
from transformers.models.minicpmv4_6.processing_minicpmv4_6 import MiniCPMV4_6Processor

from pipeline.errors import UserError
from pipeline.graph.towers.export import export
from pipeline.graph.tracer import Options
from pipeline.mnn.runner import Engine
from pipeline.stages import checkpoint, visual_selfcheck
from pipeline.use.media import encode
from pipeline.verify.pictures import draw, reference_rows
from pipeline.verify.product import EXACT
from pipeline.verify.selfcheck import build
from pipeline.verify.shrink import shrink
from tests.graph.product import Silent
from tests.towers import native
from tests.towers.models import CONFIGS, IMAGE, PROCESSORS, load, write_model
from tests.towers.product import recipe
from tests.verify.helpers import MODEL, TARGET, Notes

torch.set_num_threads(1)
FAMILY = "minicpmv4_6"
ENCODER = 1e-5  # 8e-7 was measured
# Of logits. 8e-6 was measured, and as much between transformers' own float32 and float64: the delta rule rounds so.
LIMIT = 3e-5
VISION = CONFIGS[FAMILY]["vision_config"]
WIDE = {"image_size": 980}  # 70 learned positions a side, more than any grid here has rows
# Height and width in pixels: higher than the largest slice, more than eight times wider, small, and to be cut.
PICTURES = {"tall": (340, 33), "wide": (20, 190), "small": (9, 12), "large": (500, 300)}


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("minicpmv")
    build(write_model(FAMILY, folder / "source"), folder, recipe(), encoders=("visual",))
    return folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pictures")
    for name, size in PICTURES.items():
        draw(*size).save(folder / f"{name}.png")
    return {name: folder / f"{name}.png" for name in PICTURES}


def as_fed(pixels: torch.Tensor) -> dict[str, np.ndarray]:
    """What the engine makes of float32 [3, height, width]: patches of two equal frames, 2 x 2 next to each other."""
    _, tall, wide = (size // 14 for size in pixels.shape)
    split = pixels.reshape(3, tall // 2, 2, 14, wide // 2, 2, 14).permute(1, 4, 2, 5, 0, 3, 6)
    twice = split[:, :, :, :, :, None].expand(-1, -1, -1, -1, -1, 2, -1, -1)
    row, column = torch.meshgrid(torch.arange(tall), torch.arange(wide), indexing="ij")
    places = torch.stack([row, column]).reshape(2, tall // 2, 2, wide // 2, 2).transpose(2, 3).reshape(2, -1)
    return {
        "patches": twice.reshape(tall * wide, -1).numpy(),
        "position_ids": places.numpy().astype(np.int32),
        "attention_mask": np.zeros((1, tall * wide, tall * wide), np.float32),
    }


@pytest.mark.parametrize(
    ("mode", "size", "grids"),
    [
        ("16x", 112, [(4, 4), (12, 8), (8, 40), (28, 4)]),
        ("16x", 980, [(28, 24)]),
        ("4x", 112, [(2, 2), (6, 10), (14, 2)]),
    ],
)
def test_the_encoder_alone(mode: str, size: int, grids: Sequence[tuple[int, int]], tmp_path: Path) -> None:
    changes = {"downsample_mode": mode, "vision_config": {**VISION, "image_size": size}}
    source = write_model(FAMILY, tmp_path / "source", **changes)
    (source / "preprocessor_config.json").write_text(json.dumps({**PROCESSORS[FAMILY], "downsample_mode": mode}))
    build(source, tmp_path, recipe(), encoders=("visual",))
    drawn = [torch.randn(3, 14 * tall, 14 * wide, generator=torch.Generator().manual_seed(0)) for tall, wide in grids]
    fed = [as_fed(pixels) for pixels in drawn]
    found = native.run(tmp_path / "product" / "visual.mnn", "image_embeds", fed, tmp_path)
    processor, model = MiniCPMV4_6ImageProcessorPil(), load(source).model
    for grid, pixels, rows in zip(grids, drawn, found, strict=True):
        packed = torch.tensor(processor.reshape_by_patch(pixels.numpy(), 14))[None]
        with torch.inference_mode():
            (expected,) = model.get_image_features(packed, torch.tensor([grid])).pooler_output
        assert rows.shape == (expected.shape[0], 1, expected.shape[1])
        assert np.abs(rows[:, 0] - expected.numpy()).max() < ENCODER * expected.abs().max(), grid


@pytest.mark.parametrize("names", [("tall",), ("wide",), ("small", "large")])
def test_pictures_of_every_shape(
    names: Sequence[str], engine: Engine, work: Path, pictures: Mapping[str, Path], tmp_path: Path
) -> None:
    text = "See " + ", ".join(f"<img>{pictures[name]}</img>" for name in names) + "?"
    ids = encode(engine, text).ids
    found = [engine.prefill(ids), engine.step(40), engine.step(99)]
    images = [Image.open(pictures[name]) for name in names]
    rows = reference_rows(load(work / "source"), work / "source", images, [*ids, 40, 99], IMAGE)[-3:]
    assert np.abs(np.stack(found) - rows).max() < LIMIT * np.abs(rows).max()


class Processor(MiniCPMV4_6Processor):  # type: ignore[misc]
    """transformers' own, without the part for videos, which needs torchvision."""

    def __init__(self, tokenizer: Any, **settings: Any) -> None:
        self.image_processor, self.tokenizer = MiniCPMV4_6ImageProcessorPil(**settings), tokenizer
        self.chat_template, self.default_use_image_id = None, self.image_processor.use_image_id
        self.slice_mode = self.image_processor.slice_mode
        self.image_token, self.video_token = tokenizer.image_token, tokenizer.video_token
        self.image_token_id, self.video_token_id = tokenizer.image_token_id, tokenizer.video_token_id
        for name in ("image_start", "image_end", "slice_start", "slice_end", "image_id_start", "image_id_end"):
            setattr(self, f"{name}_token", getattr(tokenizer, f"{name}_token"))


WORDS = {
    "image_token": "<|image_pad|>",
    "video_token": "<|video_pad|>",
    "image_start_token": "<image>",
    "image_end_token": "</image>",
    "slice_start_token": "<slice>",
    "slice_end_token": "</slice>",
    "image_id_start_token": "<image_id>",
    "image_id_end_token": "</image_id>",
}


@pytest.mark.parametrize(
    "settings", [{}, {"use_image_id": False, "max_slice_nums": 4}, {"slice_mode": False}]
)
def test_prompts_are_those_of_hugging_faces_processor(
    settings: Mapping[str, Any], work: Path, pictures: Mapping[str, Path], tmp_path: Path
) -> None:
    source = write_model(FAMILY, tmp_path / "source")
    (source / "preprocessor_config.json").write_text(json.dumps({**PROCESSORS[FAMILY], **settings}))
    product = build(source, tmp_path, recipe(), encoders=("visual",))
    tokenizer = PreTrainedTokenizerFast.from_pretrained(source, extra_special_tokens=WORDS, pad_token="<|im_end|>")
    processor = Processor(tokenizer, **{"scale_resolution": 112, **settings})
    order = ["large", "small", "tall", "wide"]
    text = "<|im_start|>user\n<|image_pad|>\nWhat<|image_pad|><|image_pad|> is\n<|image_pad|>?<|im_end|>\n"
    theirs = processor(text=text, images=[draw(*PICTURES[name]) for name in order])["input_ids"][0]
    for name in order:
        text = text.replace("<|image_pad|>", f"<img>{pictures[name]}</img>", 1)
    with Engine(product, {**EXACT, "thread_num": 1}) as engine:
        assert encode(engine, text).ids == list(theirs)


def refusal(folder: Path, settings: Mapping[str, Any], **changes: Any) -> str:
    source = write_model(FAMILY, folder / "source", **changes)
    (source / "preprocessor_config.json").write_text(json.dumps({**PROCESSORS[FAMILY], **settings}))
    out = folder / "checkpoint"
    out.mkdir()
    checkpoint.run({"adapter": {"mode": "none", "weight": 1.0}, "model": {}}, {"source": source}, out, Silent())
    with pytest.raises(UserError) as refused:
        export("visual", out, folder, Options())
    return str(refused.value)


@pytest.mark.parametrize(
    ("settings", "changes", "reason"),
    [
        ({"do_resize": False}, {}, "do_resize"),
        ({"do_normalize": False}, {}, "do_normalize"),
        ({"patch_size": 16}, {}, "patches of 16"),
        ({"downsample_mode": "4x"}, {}, "a processor for 4x"),
        ({}, {"vision_config": {**VISION, "patch_size": 16}}, "patches of 16 pixels instead of 14"),
        ({}, {"vision_config": {**VISION, "image_size": 27 * 14}}, "27 x 27 learned positions"),
        ({}, {"insert_layer_id": 3}, "after layer 3 of 3"),
    ],
)
def test_what_cannot_be_is_one_line(
    settings: Mapping[str, Any], changes: Mapping[str, Any], reason: str, tmp_path: Path
) -> None:
    assert reason in refusal(tmp_path, settings, **changes)


def test_the_gates_small_copy_cuts_slices(tmp_path: Path) -> None:
    """Of a config with more layers before the windows' than the copy has, and a processor of large slices."""
    vision = {**VISION, "num_hidden_layers": 9}
    config = AutoConfig.for_model(FAMILY, **{**CONFIGS[FAMILY], "vision_config": vision, "insert_layer_id": 6})
    config.save_pretrained(tmp_path)
    settings = {key: value for key, value in PROCESSORS[FAMILY].items() if key != "scale_resolution"}
    (tmp_path / "processor_config.json").write_text(json.dumps({"image_processor": settings}))
    whole = {"model": MODEL, "target": TARGET, "visual": {"positions": "exact"}}
    visual_selfcheck.run(whole, {"checkpoint": tmp_path}, tmp_path, Notes())
    told = json.loads((tmp_path / "pictures.json").read_text())
    assert set(told["pictures"]) == {"wide", "tall", "both"}
    assert max(error for errors in told["pictures"].values() for error in errors.values()) < LIMIT
    small = shrink(config).config
    assert (small.insert_layer_id, small.vision_config.insert_layer_id) == (0, 0)

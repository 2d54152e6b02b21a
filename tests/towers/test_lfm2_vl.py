"""LFM2-VL on the engine beyond test_pictures.py: shapes of pictures, the prompt's text, the state, what is refused."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoConfig, Lfm2VlProcessor, PreTrainedTokenizerFast

from pipeline.errors import UserError
from pipeline.graph.towers.export import export
from pipeline.graph.tracer import Options
from pipeline.media.prepare import prepare
from pipeline.mnn.runner import Engine
from pipeline.stages import checkpoint, visual_selfcheck
from pipeline.use.media import encode
from pipeline.verify.pictures import draw, reference_rows
from pipeline.verify.product import EXACT
from pipeline.verify.selfcheck import build
from pipeline.verify.torch_pictures import processor
from tests.graph.product import Silent
from tests.mnn.module import run_module
from tests.towers.models import CONFIGS, IMAGE, PROCESSORS, load, write_model
from tests.towers.product import recipe, rename_as_published
from tests.verify.helpers import MODEL, TARGET, Notes

torch.set_num_threads(1)
LIMIT = 1e-5  # of max|logit|
SHAPES = {"small": (20, 30), "wide": (100, 340), "tall": (500, 45), "square": (64, 64), "tiled": (150, 400)}


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`source`, with the published models' names of tensors, `product` and the stages' folders."""
    folder = tmp_path_factory.mktemp("lfm2_vl")
    rename_as_published(write_model("lfm2_vl", folder / "source"))
    build(folder / "source", folder, recipe(), encoders=("visual",))
    return folder


@pytest.fixture(scope="module")
def pictures(work: Path) -> dict[str, Path]:
    paths = {name: work / f"{name}.png" for name in SHAPES}
    for name, path in paths.items():
        draw(*SHAPES[name]).save(path)
    return paths


def expected(model: Any, work: Path, pictures: Sequence[Path], ids: Sequence[int]) -> Any:
    return reference_rows(model, work / "source", [Image.open(path) for path in pictures], ids, IMAGE)


def assert_near(found: Any, row: Any) -> None:
    assert np.abs(found - row).max() < LIMIT * np.abs(row).max()


def engine_inputs(picture: Image.Image) -> dict[str, Any]:
    """What the engine feeds for a picture whose sides are multiples of 32 (MNN: omni.cpp, qwen2VisionProcess)."""
    pixels = np.asarray(picture, np.float32) / 127.5 - 1
    height, width = (side // 16 for side in pixels.shape[:2])
    blocks = pixels.reshape(height // 2, 2, 16, width // 2, 2, 16, 3).transpose(0, 3, 1, 4, 6, 2, 5)
    patches = np.repeat(blocks.reshape(height * width, 3, 1, 256), 2, axis=2)
    places = np.stack(np.meshgrid(np.arange(height), np.arange(width), indexing="ij"))
    ordered = places.reshape(2, height // 2, 2, width // 2, 2).transpose(0, 1, 3, 2, 4).reshape(2, -1)
    count = height * width
    return {
        "patches": patches.reshape(count, -1),
        "position_ids": ordered.astype(np.int32),
        "attention_mask": np.zeros((1, count, count), np.float32),
        "idx_tensor": np.zeros((4, count), np.int32),
        "weight_tensor": np.repeat(np.array([[1], [0], [0], [0]], np.float32), count, axis=1),
    }


@pytest.mark.parametrize("shape", sorted(SHAPES))
def test_the_encoder_alone(shape: str, work: Path, model: Any, pictures: Mapping[str, Path], tmp_path: Path) -> None:
    """Tiles and thumbnail one by one, each within 1e-5 of the largest value, on transformers' own patches."""
    picture = Image.open(pictures[shape])
    inputs = processor("lfm2_vl", work / "source")(images=[picture], return_tensors="pt")
    with torch.inference_mode():
        rows = model.model.get_image_features(**inputs).pooler_output
    facts = json.loads((work / "product" / "visual.json").read_text())
    prepared = prepare(picture, facts).pictures
    assert (len(prepared) > 1) == (shape == "tiled")
    for one, expected in zip(prepared, rows, strict=True):
        found = run_module(work / "product" / "visual.mnn", engine_inputs(one), ["image_embeds"], tmp_path)
        assert np.abs(found["image_embeds"][:, 0] - expected.numpy()).max() < 1e-5 * expected.abs().max()


def test_the_cut_into_patches_stays_fp16(work: Path) -> None:
    linears = json.loads((work / "visual_graph" / "layout.json").read_text())["linears"]
    assert [one["name"] for one in linears if one["keep"]] == ["model.vision_tower.embeddings.patch_embedding"]
    assert len(linears) == 1 + 2 * 6 + 2  # two layers, and the projector's two


def test_prompts_are_those_of_hugging_faces_processor(engine: Engine, work: Path, pictures: dict[str, Path]) -> None:
    tokenizer = PreTrainedTokenizerFast.from_pretrained(
        work / "source", extra_special_tokens={"image_token": "<|image_pad|>"}
    )
    theirs = Lfm2VlProcessor(processor("lfm2_vl", work / "source"), tokenizer)
    names = ["small", "tiled", "wide"]
    text = "<|im_start|>user\n<|image_pad|>What\nis<|image_pad|><|image_pad|>?<|im_end|>\n"
    ids = theirs(text=text, images=[[draw(*SHAPES[name]) for name in names]])["input_ids"][0]
    for name in names:
        text = text.replace("<|image_pad|>", f"<img>{pictures[name]}</img>", 1)
    assert encode(engine, text).ids == list(ids)


def test_a_second_turn_on_a_cache(engine: Engine, work: Path, model: Any, pictures: dict[str, Path]) -> None:
    """Pictures behind cached tokens, and the convolutions' state across all of them; then decode steps."""
    first = encode(engine, f"see <img>{pictures['small']}</img>").ids
    engine.prefill(first)
    second = encode(engine, f"and <img>{pictures['tiled']}</img><img>{pictures['tall']}</img> then").ids
    found = [engine.prefill(second, keep=True)]
    found += [engine.step(token) for token in (40, 99)]
    ids = [*first, *second, 40, 99]
    rows = expected(model, work, [pictures[name] for name in ("small", "tiled", "tall")], ids)
    for row, one in zip(rows[-3:], found, strict=True):
        assert_near(one, row)


def test_one_run_for_the_prompt_whatever_chunk_says(work: Path, model: Any, pictures: dict[str, Path]) -> None:
    with Engine(work / "product", {**EXACT, "thread_num": 1, "chunk": 16}) as engine:
        ids = encode(engine, f"see <img>{pictures['wide']}</img> and this").ids
        whole = engine.prefill(ids)
        ask = engine.tokenize("What is it that you see there?")
        after = engine.prefill(ask, keep=True)  # text in runs of 16 again
        engine.prefill(engine.tokenize("something else"))  # a new sequence forgets the old one's state
        ids = encode(engine, f"see <img>{pictures['wide']}</img> and this").ids
        again = engine.prefill(ids)
    rows = expected(model, work, [pictures["wide"]], [*ids, *ask])
    assert_near(whole, rows[len(ids) - 1])
    assert_near(after, rows[-1])
    assert_near(again, rows[len(ids) - 1])


def test_a_size_that_was_asked_for(engine: Engine, work: Path, pictures: dict[str, Path]) -> None:
    """As many tokens as a picture of that size has."""
    theirs = processor("lfm2_vl", work / "source")
    for height, width in ((64, 128), (10, 10), (128, 160), (150, 400)):
        patches = theirs(images=[draw(height, width)], return_tensors="pt")["pixel_attention_mask"].sum()
        ids = encode(engine, f"<img><hw>{height}, {width}</hw>{pictures['small']}</img>").ids
        assert ids.count(IMAGE) == patches // 4


def _visual(folder: Path, files: Mapping[str, Any], **changes: Any) -> dict[str, Any]:
    """visual.json of a tiny model with these processor files; UserError if it is refused."""
    source = write_model("lfm2_vl", folder / "source", **changes)
    for name, content in files.items():
        (source / name).write_text(json.dumps(content))
    out = folder / "checkpoint"
    out.mkdir()
    checkpoint.run({"adapter": {"mode": "none", "weight": 1.0}, "model": {}}, {"source": source}, out, Silent())
    return export("visual", out, folder, Options()).preprocessing


USUAL = PROCESSORS["lfm2_vl"]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"encoder_patch_size": 14}, "encoder_patch_size is 14"),
        ({"downsample_factor": 4}, "downsample_factor is 4"),
        ({"tile_size": 80}, "tiles of 80 pixels"),
        ({"min_tiles": 1}, "in 1 to 6 tiles"),
        ({"resample": 3}, "PIL's filter 3"),
        ({"do_normalize": False}, "do_normalize"),
    ],
)
def test_a_processor_that_cannot_be_followed_is_refused(
    changes: Mapping[str, Any], reason: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=reason):
        _visual(tmp_path, {"preprocessor_config.json": {**USUAL, **changes}})


def test_other_patches_factors_and_prompts_are_refused(tmp_path: Path) -> None:
    vision = CONFIGS["lfm2_vl"]["vision_config"]
    for name, files, changes, reason in (
        ("patch", {}, {"vision_config": {**vision, "patch_size": 14}}, "patches of 14 pixels"),
        ("factor", {}, {"downsample_factor": 4}, "4 x as downsample factor"),
        ("words", {"processor_config.json": {"use_image_special_tokens": False}}, {}, "use_image_special_tokens"),
    ):
        with pytest.raises(UserError, match=reason):
            (tmp_path / name).mkdir()
            _visual(tmp_path / name, files, **changes)


def test_pictures_are_left_whole_where_the_processor_says_so(tmp_path: Path) -> None:
    for name, changes in (("off", {"do_image_splitting": False}), ("one", {"min_tiles": 1, "max_tiles": 1})):
        (tmp_path / name).mkdir()
        settings = {**USUAL, **changes, "tile_size": 80}  # which then nothing uses
        facts = _visual(tmp_path / name, {"preprocessor_config.json": settings})
        theirs = processor("lfm2_vl", tmp_path / name / "source")(images=[draw(150, 400)], return_tensors="pt")
        (whole,) = prepare(draw(150, 400), facts).pictures
        assert [[whole.height // 16, whole.width // 16]] == theirs["spatial_shapes"].tolist()


def test_no_thumbnail_where_the_processor_says_so(tmp_path: Path) -> None:
    facts = _visual(tmp_path, {"preprocessor_config.json": {**USUAL, "use_thumbnail": False}})
    theirs = processor("lfm2_vl", tmp_path / "source")(images=[draw(150, 400)], return_tensors="pt")
    assert len(prepare(draw(150, 400), facts).pictures) == len(theirs["pixel_values"]) == 3


def test_the_text_part_alone(tmp_path: Path) -> None:
    source = write_model("lfm2_vl", tmp_path / "source")
    product = build(source, tmp_path, recipe(mode="off"))
    assert not (product / "visual.mnn").exists()
    with Engine(product, {**EXACT, "thread_num": 1}) as engine:
        ids = engine.tokenize("no picture at all")
        with torch.inference_mode():
            rows = load(source)(torch.tensor([ids])).logits[0].numpy()
        assert_near(engine.logits(ids), rows)


def test_the_gates_small_copy(tmp_path: Path) -> None:
    """A table of positions that the graph holds itself; the processor's settings where transformers 5 writes them."""
    vision = {**CONFIGS["lfm2_vl"]["vision_config"], "num_patches": 25}
    AutoConfig.for_model("lfm2_vl", **{**CONFIGS["lfm2_vl"], "vision_config": vision}).save_pretrained(tmp_path)
    (tmp_path / "processor_config.json").write_text(json.dumps({"image_processor": USUAL}))
    whole = {"model": MODEL, "target": TARGET, "visual": {"positions": "engine"}}
    visual_selfcheck.run(whole, {"checkpoint": tmp_path}, tmp_path, Notes())
    told = json.loads((tmp_path / "pictures.json").read_text())
    assert told["positions"] == "exact"  # the model has none that the engine counts, so no error is excused
    assert max(error for errors in told["pictures"].values() for error in errors.values()) < LIMIT

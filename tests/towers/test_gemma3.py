"""Gemma 3 on the engine beyond test_pictures.py: the encoder alone, the prompt's text, caches and runs of a prompt."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, Gemma3Processor, PreTrainedTokenizerFast
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil

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
from tests.mnn.module import run_module
from tests.towers.models import CONFIGS, IMAGE, PROCESSORS, load, write_model
from tests.towers.product import recipe, rename_as_published
from tests.verify.helpers import MODEL, TARGET, Notes

torch.set_num_threads(1)
LIMIT = 1e-5  # of max|logit|


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`source`, with the published models' names of tensors, `product` and the stages' folders."""
    folder = tmp_path_factory.mktemp("gemma3")
    rename_as_published(write_model("gemma3", folder / "source"))
    build(folder / "source", folder, recipe(), encoders=("visual",))
    return folder


@pytest.fixture(scope="module")
def pictures(work: Path) -> list[Path]:
    paths = [work / f"{number}.png" for number in range(3)]
    for number, path in enumerate(paths):
        draw(100 + 70 * number, 150).save(path)
    return paths


def expected(model: Any, work: Path, pictures: Sequence[Path], ids: Sequence[int]) -> Any:
    from PIL import Image

    return reference_rows(model, work / "source", [Image.open(path) for path in pictures], ids, IMAGE)


def assert_near(found: Any, row: Any) -> None:
    assert np.abs(found - row).max() < LIMIT * np.abs(row).max()


def test_the_encoder_alone(work: Path, model: Any, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).uniform(-1, 1, (1, 3, 64, 64)).astype(np.float32)
    found = run_module(work / "product" / "visual.mnn", {"input_images": pixels}, ["image_embeds"], tmp_path)
    with torch.inference_mode():
        rows = model.model.get_image_features(torch.tensor(pixels)).pooler_output[0].numpy()
    embeds = found["image_embeds"][:, 0]
    scaled = embeds[:, :-1] * model.config.text_config.hidden_size**0.5
    assert np.abs(scaled - rows).max() < 1e-5 * np.abs(rows).max()
    assert embeds[:, -1].tolist() == list(range(15, -1, -1))  # rows of the same picture that follow


def test_prompts_are_those_of_hugging_faces_processor(engine: Engine, work: Path, pictures: list[Path]) -> None:
    names = {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<|image_pad|>"}
    tokenizer = PreTrainedTokenizerFast.from_pretrained(work / "source", extra_special_tokens=names)
    processor = Gemma3Processor(Gemma3ImageProcessorPil(size={"height": 64, "width": 64}), tokenizer, None, 16)
    text = "<|im_start|>user\n<start_of_image>What\nis<start_of_image><start_of_image>?<|im_end|>\n"
    theirs = processor(text=text, images=[draw(40, 50)] * 3)["input_ids"][0]
    for path in pictures:
        text = text.replace("<start_of_image>", f"<img>{path}</img>", 1)
    assert encode(engine, text).ids == list(theirs)


def test_a_second_turn_on_a_cache(engine: Engine, work: Path, model: Any, pictures: list[Path]) -> None:
    """Pictures behind cached tokens: more keys than rows in the mask. Two of them, then a third and decode steps."""
    first = encode(engine, f"see <img>{pictures[0]}</img>").ids
    engine.prefill(first)
    second = encode(engine, f"and <img>{pictures[1]}</img><img>{pictures[2]}</img> then").ids
    found = [engine.prefill(second, keep=True)]
    third = encode(engine, f"<img>{pictures[0]}</img>").ids
    found.append(engine.prefill(third, keep=True))
    found += [engine.step(token) for token in (40, 99)]
    ids = [*first, *second, *third, 40, 99]
    rows = expected(model, work, [*pictures, pictures[0]], ids)
    turn = len(first) + len(second)
    for row, one in zip((turn - 1, len(ids) - 3, len(ids) - 2, len(ids) - 1), found, strict=True):
        assert_near(one, rows[row])


def test_a_picture_is_never_cut_in_two(work: Path, model: Any, pictures: list[Path]) -> None:
    with Engine(work / "product", {**EXACT, "thread_num": 1, "chunk": 16}) as engine:
        ids = encode(engine, f"see <img>{pictures[0]}</img> and this").ids
        whole = engine.prefill(ids)
        ask = engine.tokenize("What is it that you see there?")
        after = engine.prefill(ask, keep=True)  # text in runs of 16 again
    rows = expected(model, work, [pictures[0]], [*ids, *ask])
    assert_near(whole, rows[len(ids) - 1])
    assert_near(after, rows[-1])


def test_text_alone_is_causal(engine: Engine, model: Any) -> None:
    ids = engine.tokenize("no picture at all, but more than a window of text")
    with torch.inference_mode():
        rows = model(torch.tensor([ids])).logits[0].numpy()
    assert_near(engine.logits(ids), rows)


def _refusal(folder: Path, processor: Mapping[str, Any] | None = None, **changes: Any) -> str:
    source = write_model("gemma3", folder / "source", **changes)
    if processor is not None:
        (source / "preprocessor_config.json").write_text(json.dumps(processor))
    out = folder / "checkpoint"
    out.mkdir()
    checkpoint.run({"adapter": {"mode": "none", "weight": 1.0}, "model": {}}, {"source": source}, out, Silent())
    with pytest.raises(UserError) as refused:
        export("visual", out, folder, Options())
    return str(refused.value)


def test_pan_and_scan_and_other_sizes_are_refused(tmp_path: Path) -> None:
    for name, settings, reason in (
        ("scan", {"size": {"height": 64, "width": 64}, "do_pan_and_scan": True}, "do_pan_and_scan"),
        ("size", {"size": {"height": 224, "width": 224}}, "takes 64 x 64"),
    ):
        (tmp_path / name).mkdir()
        assert reason in _refusal(tmp_path / name, settings)


def test_the_text_part_alone_has_no_columns_for_pictures(tmp_path: Path) -> None:
    source = write_model("gemma3", tmp_path / "source")
    product = build(source, tmp_path, recipe(mode="off"))
    layout = json.loads((tmp_path / "graph" / "layout.json").read_text())
    assert (layout["hidden_size"], "markers" in layout["embedding"], layout["tied"]) == (128, False, True)
    with Engine(product, {**EXACT, "thread_num": 1}) as engine:
        ids = engine.tokenize("more text than the window holds")
        with torch.inference_mode():
            rows = load(source)(torch.tensor([ids])).logits[0].numpy()
        assert_near(engine.logits(ids), rows)


def test_the_gates_small_copy_has_small_pictures(tmp_path: Path) -> None:
    """Twice as many tokens a side as the copy keeps, and a processor that makes pictures of the large size."""
    vision = {**CONFIGS["gemma3"]["vision_config"], "image_size": 128}
    config = AutoConfig.for_model("gemma3", **{**CONFIGS["gemma3"], "vision_config": vision, "mm_tokens_per_image": 64})
    config.save_pretrained(tmp_path)
    processor = {"image_processor": {**PROCESSORS["gemma3"], "size": {"height": 128, "width": 128}}}
    (tmp_path / "processor_config.json").write_text(json.dumps(processor))
    whole = {"model": MODEL, "target": TARGET, "visual": {"positions": "engine"}}
    visual_selfcheck.run(whole, {"checkpoint": tmp_path}, tmp_path, Notes())
    told = json.loads((tmp_path / "pictures.json").read_text())
    assert told["positions"] == "exact"  # the model has none that the engine counts, so no error is excused
    assert max(error for errors in told["pictures"].values() for error in errors.values()) < LIMIT
    small = shrink(config).config
    assert (small.vision_config.image_size, small.mm_tokens_per_image) == (64, 16)

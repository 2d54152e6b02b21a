"""MiniCPM-V 4.7's canvas: where transformers places the tokens of prompts, alone and on the engine."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoConfig
from transformers.models.minicpmv4_7.modeling_minicpmv4_7 import MiniCPMV4_7Model

from pipeline.errors import UserError
from pipeline.graph.layout import flagged
from pipeline.graph.towers import canvas_positions as canvas
from pipeline.graph.towers.minicpmv4_7 import CanvasDecoder, decoder
from pipeline.graph.tracer import Options
from pipeline.mnn.runner import Engine
from pipeline.stages import visual_selfcheck
from pipeline.use.media import encode
from pipeline.verify.pictures import draw, reference_rows
from pipeline.verify.product import EXACT
from pipeline.verify.selfcheck import build
from tests.towers.models import CONFIGS, IMAGE, PROCESSORS, load, write_model
from tests.towers.product import recipe
from tests.verify.helpers import MODEL, TARGET, Notes

torch.set_num_threads(1)
FAMILY = "minicpmv4_7"
LIMIT = 3e-5  # see tests/towers/test_minicpmv4_6.py
CONFIG = CONFIGS[FAMILY]
LINE = CONFIG["newline_id"]
PICTURES = {"wide": (190, 252), "tall": (340, 33), "small": (9, 12)}  # four slices, three, none


class Prompt:
    """ids, and what the encoder and the token table write behind them. sizes: of slices, in patches."""

    def __init__(self, flags: dict[int, float]) -> None:
        self.flags = flags
        self.ids: list[int] = []
        self.marks: list[torch.Tensor] = []
        self.sizes: list[tuple[int, int]] = []

    def words(self, *ids: int) -> None:
        self.ids += ids
        self.marks += [torch.full((1, canvas.MARKERS), self.flags.get(token, 0.0)) for token in ids]

    def slice(self, kind: str, height: int, width: int) -> None:
        self.words(CONFIG[f"{kind}_start_id"])
        self.ids += [IMAGE] * (height * width)
        places = torch.stack(torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")).reshape(2, -1)
        self.marks.append(canvas.markers(places))
        self.sizes.append((4 * height, 4 * width))
        self.words(CONFIG[f"{kind}_end_id"])

    def picture(self, whole: tuple[int, int], rows: int, columns: int, part: tuple[int, int]) -> None:
        self.slice("image", *whole)
        for row in range(rows):
            if row:
                self.words(LINE)
            for _ in range(columns):
                self.slice("slice", *part)


def drawn_prompt(choose: random.Random, flags: dict[int, float]) -> Prompt:
    """Text, line feeds, words without pictures, and pictures apart or next to each other, with slices or without."""
    prompt = Prompt(flags)
    stray = [40, 41, LINE, LINE, CONFIG["image_end_id"], CONFIG["image_start_id"], CONFIG["slice_end_id"]]
    for _ in range(choose.randint(1, 4)):
        prompt.words(*choose.choices(stray, k=choose.randint(0, 4)))
        if choose.random() < 0.7:
            prompt.words(40, 99)
        rows, columns = choose.choice([(0, 0), (1, 2), (2, 1), (2, 3), (3, 3)])
        sizes = [(choose.randint(1, 9), choose.randint(1, 9)) for _ in range(2)]
        prompt.picture(sizes[0], rows, columns, sizes[1])
    prompt.words(*choose.choices(stray, k=choose.randint(0, 3)), 40, 41)
    return prompt


def test_places_are_those_of_transformers() -> None:
    config = AutoConfig.for_model(FAMILY, **CONFIG)
    read = decoder(config, Options(pictures=True, exact_positions=True))
    with torch.device("meta"):
        model = MiniCPMV4_7Model(config)
    choose = random.Random(0)
    for _ in range(150):
        prompt = drawn_prompt(choose, dict(read.flags))
        ids = torch.tensor([prompt.ids])
        kinds = (ids == IMAGE).int()
        expected, _ = model.get_rope_index(ids, kinds, torch.tensor(prompt.sizes))
        found = canvas.placed(torch.cat(prompt.marks), lambda taken: taken.cumsum(0) - taken)
        # A picture at the very beginning has its first word at −1 here; transformers and `positions` say 0.
        assert torch.equal(found.clamp(min=0).long(), expected[:, 0]), prompt.ids


def test_a_whole_picture_is_stretched_as_torch_spreads_numbers() -> None:
    """Halves are decided by rounding: of 15 places over 118, the middle one is at 58.5 or just above it."""
    for count in range(1, 40):
        for length in range(1, 300, 3):
            place = torch.arange(count).float()
            found = canvas._stretched(place, torch.full_like(place, count), torch.full_like(place, length))
            assert torch.equal(found, torch.linspace(0, length - 1, count).round()), (count, length)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("minicpmv")
    source = write_model(FAMILY, folder / "source")
    settings = {**PROCESSORS[FAMILY], "use_image_id": False}  # with numbers, no two pictures are next to each other
    (source / "preprocessor_config.json").write_text(json.dumps(settings))
    build(source, folder, recipe(), encoders=("visual",))
    return folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pictures")
    for name, size in PICTURES.items():
        draw(*size).save(folder / f"{name}.png")
    return {name: folder / f"{name}.png" for name in PICTURES}


def expected(model: Any, work: Path, paths: Sequence[Path], ids: Sequence[int]) -> np.ndarray:
    rows: np.ndarray = reference_rows(model, work / "source", [Image.open(path) for path in paths], ids, IMAGE)
    return rows


def test_line_feeds_and_pictures_next_to_each_other(
    engine: Engine, work: Path, model: Any, pictures: dict[str, Path]
) -> None:
    text = "see <img>{wide}</img>\n<img>{small}</img><img>{tall}</img>\n\nwhat <img>{small}</img>\n".format(**pictures)
    ids = encode(engine, text).ids
    paths = [pictures[name] for name in ("wide", "small", "tall", "small")]
    rows = expected(model, work, paths, ids)
    assert np.abs(engine.prefill(ids) - rows[-1]).max() < LIMIT * np.abs(rows).max()


def test_a_second_turn_on_a_cache(engine: Engine, work: Path, model: Any, pictures: dict[str, Path]) -> None:
    first = encode(engine, "see <img>{tall}</img> and".format(**pictures)).ids
    found = [engine.prefill(first)]
    second = encode(engine, "more <img>{wide}</img>\nor <img>{small}</img> then".format(**pictures)).ids
    found += [engine.prefill(second, keep=True), engine.step(40), engine.step(99)]
    ids = [*first, *second, 40, 99]
    rows = expected(model, work, [pictures[name] for name in ("tall", "wide", "small")], ids)
    rows = rows[[len(first) - 1, -3, -2, -1]]
    assert np.abs(np.stack(found) - rows).max() < LIMIT * np.abs(rows).max()


def test_text_alone_and_that_the_canvas_counts(
    engine: Engine, work: Path, model: Any, pictures: dict[str, Path]
) -> None:
    ids = engine.tokenize("no picture at all,\n<image> and no\n</slice>")
    with torch.inference_mode():
        rows = model(torch.tensor([ids])).logits[0].numpy()
    assert np.abs(engine.logits(ids) - rows).max() < LIMIT * np.abs(rows).max()
    ids = encode(engine, "see <img>{wide}</img> and".format(**pictures)).ids
    right = expected(model, work, [pictures["wide"]], ids)
    plain = load(work / "source")
    plain.model.compute_3d_position_ids = lambda **_: None
    wrong = expected(plain, work, [pictures["wide"]], ids)
    assert np.abs(right - wrong).max() > 0.05 * np.abs(right).max()


def test_the_token_table_says_which_words_there_are(work: Path) -> None:
    table = json.loads((work / "graph" / "layout.json").read_text())["embedding"]
    width = table["columns"] + table["markers"]
    raw = np.fromfile(work / "product" / "embeddings_bf16.bin", np.uint16).reshape(table["rows"], width)
    found = (raw[:, table["columns"] :].astype(np.uint32) << 16).view(np.float32)
    names = ("image_start_id", "image_end_id", "slice_start_id", "slice_end_id", "newline_id")
    expected = np.zeros_like(found)
    for number, name in enumerate(names):
        expected[CONFIG[name]] = number + 1
    assert np.array_equal(found, expected)
    with pytest.raises(UserError, match="no single tensor"):
        flagged([{"rows": None}, {"rows": None}], 4, {1: 1.0})


def test_four_times_as_many_tokens(pictures: dict[str, Path], tmp_path: Path) -> None:
    source = write_model(FAMILY, tmp_path / "source", downsample_mode="4x")
    (source / "preprocessor_config.json").write_text(json.dumps({**PROCESSORS[FAMILY], "downsample_mode": "4x"}))
    product = build(source, tmp_path, recipe(), encoders=("visual",))
    with Engine(product, {**EXACT, "thread_num": 1}) as engine:
        ids = encode(engine, "see <img>{wide}</img> and <img>{small}</img>.".format(**pictures)).ids
        found = [engine.prefill(ids), engine.step(40)]
    rows = expected(load(source), tmp_path, [pictures["wide"], pictures["small"]], [*ids, 40])[-2:]
    assert np.abs(np.stack(found) - rows).max() < LIMIT * np.abs(rows).max()


def test_more_pictures_than_a_run_tells_apart(engine: Engine, pictures: dict[str, Path]) -> None:
    with pytest.raises(UserError, match="65 pictures; this model takes 64"):
        encode(engine, f"<img>{pictures['small']}</img>" * 65)


def test_what_cannot_be_counted_is_refused() -> None:
    config = AutoConfig.for_model(FAMILY, **CONFIG)
    with pytest.raises(UserError, match=r"visual\.positions=exact"):
        decoder(config, Options(pictures=True))
    config.newline_id = None
    with pytest.raises(UserError, match="names no newline_id"):
        decoder(config, Options(pictures=True, exact_positions=True))
    assert not isinstance(decoder(config, Options()), CanvasDecoder)  # the text part alone


def test_the_gates_small_copy(tmp_path: Path) -> None:
    """Of a config whose words have other numbers than the copy's tokeniser gives them."""
    words = {name: 150 + number for number, name in enumerate(["image_start_id", "image_end_id", "slice_start_id"])}
    AutoConfig.for_model(FAMILY, **{**CONFIG, **words, "newline_id": 77}).save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(PROCESSORS[FAMILY]))
    whole = {"model": MODEL, "target": TARGET, "visual": {"positions": "exact"}}
    visual_selfcheck.run(whole, {"checkpoint": tmp_path}, tmp_path, Notes())
    told = json.loads((tmp_path / "pictures.json").read_text())
    assert max(error for errors in told["pictures"].values() for error in errors.values()) < LIMIT, told

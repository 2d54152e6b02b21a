"""Pictures in prompts, on a tiny product: several, sizes, strangers' text, and what is refused in one line."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from transformers.models.smolvlm.processing_smolvlm import get_image_prompt_string

from pipeline.__main__ import main
from pipeline.errors import UserError
from pipeline.media.expansion import tiles
from pipeline.media.prepare import Prepared
from pipeline.mnn.runner import Engine
from pipeline.use.media import encode, picture_tag
from pipeline.verify.pictures import draw
from tests.media.web import serving
from tests.towers.models import END, IMAGE, START
from tests.towers.product import build_family


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pictures") / "a b.png"
    draw(84, 112).save(path)
    return path


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    product = build_family("qwen2_vl", tmp_path_factory.mktemp("product"))
    with Engine(product, {"memory": "normal", "thread_num": 1}) as engine:
        yield engine


def test_a_picture_becomes_its_tokens(engine: Engine, picture: Path) -> None:
    found = encode(engine, f"a<img>{picture}</img>b")
    before, after = engine.tokenize("a"), engine.tokenize("b")
    assert found.ids == [*before, START, *[IMAGE] * 12, END, *after]  # 84 x 112 pixels: 3 x 4 tokens
    assert found.fresh  # the same ids stand for other pictures, too
    assert not encode(engine, "no picture").fresh


def test_several_pictures_and_a_size(engine: Engine, picture: Path) -> None:
    ids = encode(engine, f"<img><hw>56, 140</hw>{picture}</img> or <img>{picture}</img>").ids
    assert ids.count(IMAGE) == 2 * 5 + 3 * 4  # the size is not kept for the second
    assert engine.prefill(ids).shape == (engine.vocab_size,)


def test_strangers_send_pictures_and_name_no_files(engine: Engine, picture: Path) -> None:
    url = "data:image/png;base64," + base64.b64encode(picture.read_bytes()).decode()
    mine = encode(engine, f"<img>{picture}</img>?").ids
    assert encode(engine, f"{picture_tag(0)}?", pictures=[url]).ids == mine
    for text, pictures in ((f"<img>{picture}</img>", []), (f"<img>{picture}</img>", [url]), ("none", [url])):
        with pytest.raises(UserError, match="image_url"):
            encode(engine, text, pictures=pictures)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("<img>/no/such.png</img>", "cannot be read"),
        ("<img></img>", "names no picture"),
        ("<img><hw>0,0</hw>FILE</img>", "no size of a picture"),
        ("<img><hw>big</hw>FILE</img>", "no height and width"),
        ("<img>FILE</img><|image_pad|>", "image token itself"),
        ("<|image_pad|>", "image token itself"),
        ("<img>https://example.invalid/a.png</img>", "--allow-net"),
    ],
)
def test_one_clear_line(engine: Engine, picture: Path, text: str, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        encode(engine, text.replace("FILE", str(picture)))
    assert encode(engine, f"<img>{picture}</img>").ids.count(IMAGE) == 12  # and the engine is none the worse


def test_run_fetches_a_picture_with_the_flag_only(
    engine: Engine, picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    prompts = tmp_path / "prompts.jsonl"
    with serving({"/a.png": picture.read_bytes()}) as (address, asked):
        lines = [{"prompt": f"<img>{address}/a.png</img>?"}, {"prompt": f"<img>{picture}</img>?"}]
        prompts.write_text("".join(json.dumps(line) + "\n" for line in lines))
        run = ["run", str(engine.product.folder), str(prompts), "--greedy", "--max-new-tokens", "4"]
        main(run)
        refused, own = (json.loads(line) for line in capsys.readouterr().out.splitlines())
        assert "--allow-net" in refused["error"]
        assert len(refused["error"].splitlines()) == 1
        assert asked == []
        assert main([*run, "--allow-net"]) == 0
        fetched, same = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert fetched["prompt_tokens"] == own["prompt_tokens"] == same["prompt_tokens"]
    assert fetched["answer"] == own["answer"]
    assert asked == ["/a.png"]


@pytest.mark.parametrize(("rows", "columns"), [(0, 0), (1, 2), (3, 2)])
def test_tiles_have_the_models_own_words(rows: int, columns: int) -> None:
    words = {"fake": "<fake_token_around_image>", "global": "<global-img>", "image": "<image>"}
    expected = get_image_prompt_string(rows, columns, 5, words["fake"], words["image"], words["global"])
    assert tiles(0, Prepared((), rows, columns), {"words": words, "tokens": 5}) == expected

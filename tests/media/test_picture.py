"""Pictures that cannot be: one clear line each."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.errors import UserError
from pipeline.media import picture
from pipeline.media.picture import open_picture
from pipeline.media.prepare import prepare
from tests.media.web import serving

SMART = {"kind": "smart_resize", "unit": 28, "min_pixels": 3136, "max_pixels": 100352, "resample": 3}
RED = Image.new("RGB", (40, 30), (200, 10, 20))


def _bytes(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def test_alpha_grey_and_palette_become_rgb(tmp_path: Path) -> None:
    for mode in ("RGBA", "L", "P", "1"):
        RED.convert(mode).save(tmp_path / "a.png")
        found = open_picture(str(tmp_path / "a.png"))
        assert (found.mode, found.size) == ("RGB", (40, 30))


def test_of_an_animation_the_first_frame(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ((255, 0, 0), (0, 255, 0))]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert open_picture(str(tmp_path / "a.gif")).getpixel((3, 3)) == (255, 0, 0)


def test_exif_turns_a_photograph_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    RED.save(tmp_path / "a.jpg", exif=exif)
    assert open_picture(str(tmp_path / "a.jpg")).size == (30, 40)


def test_a_data_url() -> None:
    url = "data:image/png;base64," + base64.b64encode(_bytes(RED, "PNG")).decode()
    assert np.array_equal(np.asarray(open_picture(url)), np.asarray(RED))


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("/no/such/file.png", "No such file"),
        ("/", "is no file"),
        ("http://example.invalid/a.png", "--allow-net"),
        ("data:image/png,abc", "no data: URL with base64"),
        ("data:image/png;base64,@@@", "does not hold base64"),
        ("data:image/png;base64,aGVsbG8=", "unknown format"),
        ("a\0b", "no path"),
    ],
)
def test_what_is_no_picture_is_refused(source: str, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        open_picture(source)


def test_a_picture_from_the_net_only_where_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serving({"/a.png": _bytes(RED, "PNG"), "/a.html": b"<p>no picture"}) as (address, asked):
        with pytest.raises(UserError, match="--allow-net"):
            open_picture(f"{address}/a.png")
        assert asked == []  # refused before anything was fetched
        found = open_picture(f"{address}/a.png", allow_net=True)
        assert np.array_equal(np.asarray(found), np.asarray(RED))
        assert asked == ["/a.png"]
        for path, reason in (("no.png", "Not Found"), ("a.html", "unknown format"), ("a b.png", "cannot be fetched")):
            with pytest.raises(UserError, match=reason):
                open_picture(f"{address}/{path}", allow_net=True)
        monkeypatch.setattr(picture, "LARGEST_FILE", 50)
        with pytest.raises(UserError, match="is larger than"):
            open_picture(f"{address}/a.png", allow_net=True)
    with pytest.raises(UserError, match="cannot be fetched"):
        open_picture(f"{address}/a.png", allow_net=True)  # nobody answers any more


def test_half_a_file(tmp_path: Path) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 90, 3), np.uint8))
    whole = _bytes(noise, "PNG")
    (tmp_path / "a.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="no picture that can be read"):
        open_picture(str(tmp_path / "a.png"))


def test_files_and_areas_that_are_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tmp_path / "huge.png").open("wb") as file:
        file.truncate(1 << 30)  # a gigabyte that takes no disk
    with pytest.raises(UserError, match="1,074 MB"):
        open_picture(str(tmp_path / "huge.png"))
    RED.save(tmp_path / "a.png")
    monkeypatch.setattr(picture, "LARGEST_AREA", 1000)
    with pytest.raises(UserError, match="40 x 30 pixels"):
        open_picture(str(tmp_path / "a.png"))


@pytest.mark.parametrize("size", [(0, 0), (28, 0), (9000, 28)])
def test_sizes_that_no_picture_has(size: tuple[int, int]) -> None:
    with pytest.raises(UserError, match="no size of a picture"):
        prepare(RED, SMART, size)


def test_a_size_that_is_asked_for_is_rounded_to_the_grid() -> None:
    (found,) = prepare(RED, SMART, (280, 100)).pictures
    assert found.size == (112, 280)

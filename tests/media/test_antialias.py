"""Resizing against torch's own of 8-bit pixels, which transformers' torchvision processors use: no pixel differs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.media.antialias import resize
from pipeline.verify.pictures import draw

torch.set_num_threads(1)
SIZES = [(190, 252, 192, 256), (1200, 900, 512, 384), (31, 700, 32, 992), (1, 1, 256, 256), (600, 64, 64, 64)]


@pytest.mark.parametrize(("height", "width", "tall", "wide"), SIZES)
def test_pixels_are_torchs(height: int, width: int, tall: int, wide: int) -> None:
    noise = np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)
    for picture in (draw(height, width), Image.fromarray(noise)):
        pixels = torch.tensor(np.array(picture)).permute(2, 0, 1)[None]
        expected = torch.nn.functional.interpolate(
            pixels, size=(tall, wide), mode="bilinear", align_corners=False, antialias=True
        )
        found = np.asarray(resize(picture, tall, wide))
        assert (found == expected[0].permute(1, 2, 0).numpy()).all()


def test_the_same_size_is_the_same_picture() -> None:
    picture = draw(64, 96)
    assert resize(picture, 64, 96) is picture

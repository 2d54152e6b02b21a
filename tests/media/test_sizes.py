"""Sizes against transformers' own image processors."""

from __future__ import annotations

import json
import random
from typing import Any

import numpy as np
import pytest
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import get_optimal_tiled_canvas
from transformers.models.idefics3.image_processing_pil_idefics3 import get_resize_output_image_size
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize as reference_resize

from pipeline.errors import UserError
from pipeline.media.sizes import flexible_grid, flexible_size, is_large, longest_edge, smart_resize, tile_grid
from pipeline.verify.torch_pictures import processor

SIZES = [(1, 1), (28, 28), (27, 5000), (190, 252), (1200, 1600), (4000, 3000), (3, 500), (777, 1)]
RANDOM = random.Random(0)
SIZES += [(RANDOM.randint(1, 3000), RANDOM.randint(1, 3000)) for _ in range(300)]


@pytest.mark.parametrize(("unit", "low", "high"), [(28, 3136, 1003520), (32, 65536, 16777216), (28, 200704, 1003520)])
def test_smart_resize(unit: int, low: int, high: int) -> None:
    for height, width in SIZES:
        if max(height, width) > 200 * min(height, width):
            with pytest.raises(UserError, match="200 times longer than wide"):
                smart_resize(height, width, unit, low, high)
            continue
        expected = reference_resize(height, width, factor=unit, min_pixels=low, max_pixels=high)
        assert smart_resize(height, width, unit, low, high) == expected, (height, width)


@pytest.mark.parametrize("most", [1, 6, 12])
def test_tile_grid(most: int) -> None:
    for height, width in SIZES:
        columns, rows = get_optimal_tiled_canvas((height, width), (448, 448), 1, most)
        assert tile_grid(height, width, 448, 1, most) == (rows, columns), (height, width)


@pytest.fixture(scope="module")
def flexible(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """transformers' image processor of LFM2-VL."""
    folder = tmp_path_factory.mktemp("flexible")
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_processor_type": "Lfm2VlImageProcessorFast"}))
    return processor("lfm2_vl", folder)


@pytest.mark.parametrize(("least", "most"), [(64, 256), (4, 20), (32, 64)])
def test_flexible_size(flexible: Any, least: int, most: int) -> None:
    for height, width in SIZES:
        if max(height, width) > 200 * min(height, width):
            with pytest.raises(UserError, match="200 times longer than wide"):
                flexible_size(height, width, 32, least * 1024, most * 1024)
            continue
        wide, tall = flexible.smart_resize(height, width, 2, least, most, 16)
        assert flexible_size(height, width, 32, least * 1024, most * 1024) == (tall, wide), (height, width)
        expected = flexible._is_image_too_large(height, width, most, 16, 2, 2.0)
        assert is_large(height, width, 32, 2.0 * most * 1024) == expected, (height, width)


@pytest.mark.parametrize(("least", "most"), [(2, 10), (2, 2), (3, 6)])
def test_flexible_grid(flexible: Any, least: int, most: int) -> None:
    for height, width in [*SIZES, (800, 1000), (1000, 800), (1000, 1000)]:
        columns, rows, *_ = flexible._get_grid_layout(height, width, least, most, 512)
        assert flexible_grid(height, width, 512, least, most) == (rows, columns), (height, width)


@pytest.mark.parametrize("longest", [256, 1456, 2048])
def test_longest_edge(longest: int) -> None:
    for height, width in SIZES:
        expected = get_resize_output_image_size(np.zeros((1, height, width), np.uint8), longest)
        assert longest_edge(height, width, longest) == tuple(expected), (height, width)

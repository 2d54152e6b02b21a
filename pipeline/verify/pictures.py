"""Parity on pictures: a small random model of the same kind, with its encoder, against Hugging Face.

The pictures are drawn here, so they are the same everywhere; they go through the product's own way (`pipeline.media`,
the engine's tokeniser and encoder) on one side and through transformers' image processor on the other. Logits of the
prompt and of cached decode steps after it are compared: a wrong pixel, position or row of the encoder shows there.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.media.prompt import tokenize
from pipeline.mnn.runner import Engine
from pipeline.verify import thinker
from pipeline.verify.metrics import Logits, relative_errors
from pipeline.verify.product import EXACT

if TYPE_CHECKING:
    from PIL.Image import Image

SIZES = {"wide": (190, 252), "tall": (252, 150)}  # height, width
DECODE = (40, 99, 65, 120)


def draw(height: int, width: int) -> Image:
    """A picture with gradients, edges and fine stripes, so that every way of resizing gives other pixels."""
    from PIL import Image

    rows, columns = np.mgrid[0:height, 0:width]
    red = 255 * columns / width
    green = 255 * ((rows // 17 + columns // 23) % 2)
    blue = 127.5 * (1 + np.sin(rows * columns / 190))
    return Image.fromarray(np.stack([red, green, blue], -1).astype(np.uint8))


def compare(product: Path, model: Any, source: Path, image_token: int) -> dict[str, dict[str, float]]:
    """Errors relative to max|logit| by picture ("wide", "tall", "both"): of the prompt, and of decode steps after it.

    product: of the model in folder `source`, in fp16. model: the same by Hugging Face, float32.
    """
    drawn = {name: draw(*size) for name, size in SIZES.items()}
    asked = {**{name: [picture] for name, picture in drawn.items()}, "both": list(drawn.values())[::-1]}
    found = {}
    with Engine(product, {**EXACT, "thread_num": 1}) as engine, tempfile.TemporaryDirectory() as scratch:
        for name, pictures in asked.items():
            ids, rows = engine_rows(engine, pictures, Path(scratch))
            expected = reference_rows(model, source, pictures, [*ids, *DECODE], image_token)
            found[name] = relative_errors(expected, rows, len(ids))
    return found


def engine_rows(engine: Engine, pictures: Sequence[Image], scratch: Path) -> tuple[list[int], Logits]:
    """(ids of the prompt, float32 [len(ids) + len(DECODE), vocabulary])."""
    files = [scratch / f"drawn-{number}.png" for number in range(len(pictures))]
    for file, picture in zip(files, pictures, strict=True):
        picture.save(file)
    text = "Look " + " and ".join(f"<img>{file}</img>" for file in files) + " here?"
    folder = engine.product.folder
    ids, _ = tokenize(engine, text, folder, scratch)
    prefill = engine.logits(ids)
    tokenize(engine, text, folder, scratch)  # the engine gave the encoder's rows away with the first prefill
    engine.prefill(ids)
    return ids, np.concatenate([prefill, np.stack([engine.step(token) for token in DECODE])])


def reference_rows(
    model: Any, source: Path, pictures: Sequence[Image], ids: Sequence[int], image_token: int
) -> Logits:
    """The same rows by Hugging Face, whose image processor is read from `source`."""
    import torch
    from transformers import AutoImageProcessor

    from pipeline.verify import torch_pictures

    loader: Any = AutoImageProcessor
    if model.config.model_type in torch_pictures.PROCESSORS:
        processor = torch_pictures.processor(model.config.model_type, source)
    else:
        processor = loader.from_pretrained(str(source), backend="pil")
    inputs = dict(processor(images=[list(pictures)] if _is_nested(processor) else list(pictures), return_tensors="pt"))
    for count in ("num_patches", "num_crops", "num_patches_per_image", "grids"):
        inputs.pop(count, None)
    if thinker.is_thinker(model):
        return thinker.rows(model, ids, pictures=inputs)
    tokens = torch.tensor([list(ids)])
    if "image_grid_thw" in inputs or model.config.model_type == "minicpmv4_7":
        inputs["mm_token_type_ids"] = (tokens == image_token).int()
    elif model.config.model_type == "gemma3":  # by these its picture tokens see each other in both directions
        inputs["token_type_ids"] = (tokens == image_token).int()
    with torch.inference_mode():
        logits: Logits = model(input_ids=tokens, use_cache=False, **inputs).logits[0].float().numpy()
    return logits


def _is_nested(processor: Any) -> bool:
    """Idefics3's processors take a list of pictures for each prompt."""
    return "Idefics3" in type(processor).__name__ or "SmolVLM" in type(processor).__name__

"""The text that stands for a picture in a model's own prompt, for the families whose prompt the engine cannot write."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.media.prepare import Prepared
from pipeline.media.slices import written


def tiles(number: int, one: Prepared, facts: Mapping[str, Any]) -> str:
    """Its tiles row by row, an empty line, the whole (transformers: idefics3's processor). The engine's own has two
    line feeds where the model's tokenizer has one token for both."""
    fake, whole, image = (facts["words"][name] for name in ("fake", "global", "image"))
    places = image * int(facts["tokens"])
    rows = [
        "".join(f"{fake}<row_{row + 1}_col_{column + 1}>{places}" for column in range(one.columns)) + "\n"
        for row in range(one.rows)
    ]
    return "".join(rows) + ("\n" if rows else "") + f"{fake}{whole}{places}{fake}"


def flexible(number: int, one: Prepared, facts: Mapping[str, Any]) -> str:
    """A picture of any shape: itself, or its tiles row by row and its thumbnail (transformers: lfm2_vl's processor,
    `_build_image_tokens`)."""
    start, end, thumbnail, image = (str(facts["words"][name]) for name in ("start", "end", "thumbnail", "image"))
    unit = int(facts["unit"])
    places = [image * (picture.height // unit * (picture.width // unit)) for picture in one.pictures]
    cut = [(row + 1, column + 1) for row in range(one.rows) for column in range(one.columns)]
    names = [f"<|img_row_{row}_col_{column}|>" for row, column in cut]
    names += [thumbnail if cut else ""] * (len(places) - len(cut))
    return start + "".join(name + run for name, run in zip(names, places, strict=True)) + end


def slices(number: int, one: Prepared, facts: Mapping[str, Any]) -> str:
    """The whole and its slices, numbered within the prompt (slices.py)."""
    return written(number, [(picture.height, picture.width) for picture in one.pictures], one.columns, facts)


TEXTS = {"tiles": tiles, "flexible": flexible, "slices": slices}
"""By the kind of a product's visual.json: (number of the picture in its prompt, from 0; the picture; visual.json)."""

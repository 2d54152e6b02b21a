"""A small random copy of a model with an encoder, as a Hugging Face folder and as an fp16 product of our own stages."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.verify import random_model, selfcheck, shrink, shrink_encoders
from pipeline.verify.huggingface import load_config


@dataclass(frozen=True)
class SmallEncoder:
    """network: Hugging Face's, float32, of `config`. source: its folder. product: what the engine opens."""

    network: Any
    config: Any
    source: Path
    product: Path


@contextmanager
def small_encoder(
    kind: str,
    model: Mapping[str, Any],
    target: Mapping[str, Any],
    checkpoint: Path,
    sections: Mapping[str, Mapping[str, Any]],
) -> Iterator[SmallEncoder]:
    """The copy of the model whose config.json and processor's files are in `checkpoint`; gone afterwards.

    kind: "visual" or "audio". model, target: the recipe's. sections: what else of the recipe counts, by section.
    """
    trusted = bool(model["trust_remote_code"])
    config = shrink.shrink(load_config(checkpoint, trust_remote_code=trusted)).config
    with tempfile.TemporaryDirectory(prefix="selfcheck-") as scratch:
        source = Path(scratch) / "source"
        network = random_model.random_model(config)
        random_model.write_folder(network, source, checkpoint)
        shrink_encoders.write_tokenizer(source)
        shrink_encoders.copy_processors(checkpoint, source, config)
        recipe = selfcheck.fp16_recipe(model, target, {"allow_approximate": True})
        for name, section in sections.items():
            recipe[name] |= section
        product = selfcheck.build(source, Path(scratch), recipe, encoders=(kind,))
        yield SmallEncoder(network, config, source, product)

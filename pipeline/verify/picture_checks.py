"""The gate's checks of a product with a vision encoder."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.media.prompt import tokenize
from pipeline.mnn.runner import Engine
from pipeline.verify import encoder_checks
from pipeline.verify.gate import Check, at_most
from pipeline.verify.pictures import SIZES, draw

KNOWN = "what the engine's own positions cost; set visual.positions=exact to count them in the graph"


def selfcheck_checks(told: Mapping[str, Any], limit: float) -> list[Check]:
    """The small random copy's errors on pictures, as shares of max|logit|.

    With the engine's own positions only the prompt with a wide picture is right: that is held to the limit, and what
    else differs is reported as it was measured.
    """
    checks = []
    for picture, errors in sorted(told["pictures"].items()):
        for part, error in sorted(errors.items()):
            name = f"picture self-check, {picture}, {part.replace('_', ' ')}"
            known = told["positions"] == "engine" and (picture, part) != ("wide", "prefill_error")
            exceeded = known and error > limit
            checks.append(at_most(name, error, None if exceeded else limit, KNOWN if exceeded else ""))
    return checks


def product_checks(folder: Path, weights: Mapping[str, Any], threads: int) -> list[Check]:
    """The real encoder: its weight file is whole, and the product's logits are numbers that depend on the picture."""
    size = encoder_checks.weight_file(folder, "visual", "vision", weights)
    if not size.passed:
        return [size]
    with Engine(folder, {"thread_num": threads}) as engine, tempfile.TemporaryDirectory() as scratch:
        rows = [_last_row(engine, Path(scratch), brightness) for brightness in (1.0, 0.25)]
    return [size, *encoder_checks.dependence("picture", *rows)]


def _last_row(engine: Engine, scratch: Path, brightness: float) -> Any:
    file = scratch / f"drawn-{brightness}.png"
    draw(*SIZES["wide"]).point(lambda value: int(value * brightness)).save(file)
    ids, _ = tokenize(engine, f"<img>{file}</img>", engine.product.folder, scratch)
    return engine.prefill(ids)

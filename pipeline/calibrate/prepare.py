"""From a stage's inputs to a model that can be run layer by layer, and the text to run it on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pipeline.calibrate.stream import Stream
from pipeline.calibrate.text import sequences
from pipeline.checkpoint.open import open_model
from pipeline.verify.huggingface import load_config, load_tokenizer
from pipeline.verify.text import text_digest
from pipeline.weights.layout import Layout, load_layout

THREADS = 1
"""The same everywhere, for torch's sums depend on how many threads share them; other cores run other stages."""


@dataclass(frozen=True)
class Prepared:
    """sequences: token ids, all of one length. told: one line on what the calibration saw."""

    layout: Layout
    stream: Stream
    sequences: list[list[int]]
    told: str


def prepared(config: Mapping[str, Any], inputs: Mapping[str, Path]) -> Prepared:
    """Raises UserError for models that cannot be run layer by layer and for unusable texts."""
    torch.set_num_threads(THREADS)
    calibration = config["quant"]["calibration"]
    ids = _ids(config, inputs)
    digest = text_digest(repr(ids))[:12]
    told = f"calibrated on {len(ids)} × {len(ids[0])} tokens of {calibration['text']} (ids {digest})"
    return Prepared(load_layout(inputs["graph"] / "layout.json"), open_stream(config, inputs), ids, told)


def open_stream(config: Mapping[str, Any], inputs: Mapping[str, Path]) -> Stream:
    """The model of a stage's inputs, adapter merged."""
    torch.set_num_threads(THREADS)
    trust = bool(config["model"].get("trust_remote_code"))
    return Stream(load_config(inputs["checkpoint"], trust_remote_code=trust), open_model(config, inputs), trust)


def _ids(config: Mapping[str, Any], inputs: Mapping[str, Path]) -> list[list[int]]:
    """The calibration's token ids: what the stage selftext wrote, or windows of a text."""
    if "selftext" in inputs:
        return [list(run) for run in json.loads((inputs["selftext"] / "selftext.json").read_text(encoding="utf-8"))]
    trust = bool(config["model"].get("trust_remote_code"))
    return sequences(load_tokenizer(inputs["checkpoint"], trust_remote_code=trust), config["quant"]["calibration"])

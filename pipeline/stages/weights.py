"""weights: every linear and table of layout.json, quantised, into llm.mnn.weight; numpy and numba only, no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.build.stage import Digests, Input, Log, Stage

WEIGHT_FILE = "llm.mnn.weight"

STAGE = Stage(
    name="weights",
    module="pipeline.stages.weights",
    inputs=(
        Input("source"),
        Input("adapter"),
        Input("checkpoint", ("tensors.json", "config.json")),
        Input("graph", ("layout.json",)),
        Input("places"),
        Input("statistics"),
        Input("gptq"),
        Input("awq"),
    ),
    config=("adapter.mode", "adapter.weight"),
    tools=("numpy", "numba", "ml_dtypes"),
    warm=("pipeline.weights.writer", "pipeline.weights.source", "pipeline.checkpoint.open"),
    warm_large=("pipeline.weights.kernels",),
    memory=lambda recipe: 512 << 20,
)


def run(config: Mapping[str, Any], inputs: Mapping[str, Path], out: Path, log: Log) -> Digests:
    """Write llm.mnn.weight and weights.json (docs/architecture.md)."""
    from pipeline.checkpoint.open import open_model
    from pipeline.weights.folds import Folds, load_folds
    from pipeline.weights.hashed import HashedFile
    from pipeline.weights.layout import load_layout
    from pipeline.weights.loops import loops_for
    from pipeline.weights.matrix import Encoder
    from pipeline.weights.places import PLACES, load_precisions
    from pipeline.weights.source import lattices
    from pipeline.weights.writer import write

    layout = load_layout(inputs["graph"] / "layout.json")
    precisions = load_precisions(inputs["places"] / PLACES)
    checkpoint = open_model(config, inputs)
    weights = sum(linear.out_features * linear.in_features for linear in layout.linears)
    importance, solutions = _calibrated(inputs)
    folds = load_folds(inputs["awq"]) if "awq" in inputs else Folds()
    ready = {**solutions, **lattices(layout, precisions, checkpoint)}
    encoder = Encoder(checkpoint, loops_for(weights), importance, ready, folds)
    with HashedFile(out / WEIGHT_FILE) as file:
        written = write(
            file, layout, precisions, encoder, lambda done: log.progress(2 * done, 2 * weights, "weights")
        )
    (out / "weights.json").write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")
    log.note(_summary(written))
    return {WEIGHT_FILE: file.sha256}


def _calibrated(inputs: Mapping[str, Path]) -> tuple[dict[str, Any], dict[str, Any]]:
    """(importances, solutions) by linear, from whichever calibrating stage the recipe needs."""
    from pipeline.weights.calibrated import load_importance, load_solutions

    importance: dict[str, Any] = {}
    for stage in ("statistics", "gptq", "awq"):  # of awq's linears, the figures after scaling
        if stage in inputs:
            importance |= load_importance(inputs[stage])
    return importance, load_solutions(inputs["gptq"]) if "gptq" in inputs else {}


def _summary(written: Mapping[str, Any]) -> str:
    entries = list(written["linears"].values())
    weights = sum(entry["out_features"] * entry["in_features"] for entry in entries)
    error = sum(entry["squared_error"] for entry in entries)
    norm = sum(entry["squared_norm"] for entry in entries)
    relative = (error / norm) ** 0.5 if norm else 0.0
    bits = 8 * written["bytes"] / weights if weights else 0.0
    return f"{written['bytes'] / 1e6:.1f} MB, {bits:.2f} bits per weight, relative error {relative:.2%}"

"""awq: the scales that are folded into norms and linears before the weights are rounded, from calibration text."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.build.stage import Input, Log, Stage
from pipeline.calibrate.applies import MODEL_CONFIG, stream_memory, uses

STAGE = Stage(
    name="awq",
    module=__name__,
    inputs=(
        Input("source"),
        Input("adapter"),
        Input("checkpoint"),
        Input("graph", ("layout.json", "skeleton.json")),
        Input("places"),
        Input("selftext"),
    ),
    config=(*MODEL_CONFIG, "quant.calibration"),
    tools=("torch", "transformers", "tokenizers", "numpy", "numba"),
    warm=("torch", "transformers"),
    memory=stream_memory,
    applies=lambda recipe: uses(recipe, "awq"),
)


def run(config: Mapping[str, Any], inputs: Mapping[str, Path], out: Path, log: Log) -> None:
    """Write folds.safetensors (scales by linear and norm) and statistics.safetensors (E[x²] by linear, as scaled)."""
    from pipeline.calibrate.awq import find
    from pipeline.calibrate.folds import fold_points
    from pipeline.calibrate.prepare import prepared
    from pipeline.weights.calibrated import save_importance
    from pipeline.weights.folds import save_folds
    from pipeline.weights.places import PLACES, load_precisions

    ready = prepared(config, inputs)
    layout = ready.layout
    points = fold_points(json.loads((inputs["graph"] / "skeleton.json").read_text(encoding="utf-8")))
    precisions = load_precisions(inputs["places"] / PLACES)
    found, squares = find(
        ready.stream, layout.linears, precisions, points, ready.sequences, layout.lm_head, log.progress
    )
    save_folds(out, found)
    save_importance(out, squares)
    wanted = sum(one.algorithm == "awq" for one in precisions.values())
    log.note(f"{len(found.inputs)} of {wanted} linears read scaled inputs; {ready.told}")

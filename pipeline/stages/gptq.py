"""gptq: every linear of a body quantised layer by layer, each on what the quantised layers before it put out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.build.stage import Input, Log, Stage
from pipeline.calibrate.applies import MODEL_CONFIG, stream_memory, uses

STAGE = Stage(
    name="gptq",
    module=__name__,
    inputs=(
        Input("source"),
        Input("adapter"),
        Input("checkpoint"),
        Input("graph", ("layout.json",)),
        Input("places"),
        Input("selftext"),
    ),
    config=(*MODEL_CONFIG, "quant.calibration", "quant.act_order"),
    tools=("torch", "transformers", "tokenizers", "numpy", "numba"),
    warm=("torch", "transformers"),
    memory=stream_memory,
    applies=lambda recipe: uses(recipe, "gptq"),
)


def run(config: Mapping[str, Any], inputs: Mapping[str, Path], out: Path, log: Log) -> None:
    """Write solution-*.safetensors (codes, scales, zeros by linear) and statistics.safetensors (E[x²] by linear)."""
    from pipeline.calibrate.prepare import prepared
    from pipeline.calibrate.solve import solve_layers
    from pipeline.weights.calibrated import save_importance, save_solution
    from pipeline.weights.places import PLACES, load_precisions

    ready = prepared(config, inputs)
    layout = ready.layout
    squares = solve_layers(
        ready.stream,
        layout.linears,
        load_precisions(inputs["places"] / PLACES),
        ready.sequences,
        layout.lm_head,
        bool(config["quant"]["act_order"]),
        lambda name, solution: save_solution(out, name, solution.codes, solution.scale, solution.zero),
        log.progress,
    )
    save_importance(out, squares)
    log.note(ready.told)

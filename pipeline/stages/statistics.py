"""statistics: mean squares of every linear's inputs over the calibration text, for weights weighed by them (wmse)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.build.stage import Input, Log, Stage
from pipeline.calibrate.applies import MODEL_CONFIG, stream_memory, uses

STAGE = Stage(
    name="statistics",
    module=__name__,
    inputs=(
        Input("source"),
        Input("adapter"),
        Input("checkpoint"),
        Input("graph", ("layout.json",)),
        Input("selftext"),
    ),
    config=(*MODEL_CONFIG, "quant.calibration"),
    tools=("torch", "transformers", "tokenizers", "numpy"),
    warm=("torch", "transformers"),
    memory=stream_memory,
    applies=lambda recipe: uses(recipe, "wmse") and not uses(recipe, "gptq") and not uses(recipe, "awq"),
)


def run(config: Mapping[str, Any], inputs: Mapping[str, Path], out: Path, log: Log) -> None:
    """Write statistics.safetensors: by linear, float32 [in_features], E[x²]."""
    from pipeline.calibrate.prepare import prepared
    from pipeline.calibrate.statistics import importance
    from pipeline.weights.calibrated import save_importance

    ready = prepared(config, inputs)
    found = importance(ready.stream, ready.layout.linears, ready.sequences, ready.layout.lm_head, log.progress)
    save_importance(out, found)
    log.note(ready.told)

"""sensitivity: what each linear would cost, in KL divergence and in bytes, at each precision. Measured once per model.

The budget is not an input: another one costs no new measurement.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.build.stage import Input, Log, Stage
from pipeline.calibrate.applies import MODEL_CONFIG, is_automatic, stream_memory

STAGE = Stage(
    name="sensitivity",
    module=__name__,
    inputs=(
        Input("source"),
        Input("adapter"),
        Input("checkpoint"),
        Input("graph", ("layout.json",)),
        Input("selftext"),
    ),
    config=(*MODEL_CONFIG, "quant.calibration", "quant.symmetric", "quant.scale_bits", "target.fast_bits"),
    tools=("torch", "transformers", "tokenizers", "numpy", "numba"),
    warm=("torch", "transformers"),
    memory=stream_memory,
    applies=is_automatic,
)


def run(config: Mapping[str, Any], inputs: Mapping[str, Path], out: Path, log: Log) -> None:
    """Write sensitivity.json: by linear, candidates with bits, block, bytes and the predicted KL divergence in nats."""
    from pipeline.calibrate.prepare import prepared
    from pipeline.calibrate.sensitivity import SEQUENCES, table
    from pipeline.calibrate.statistics import sensitivities

    ready = prepared(config, inputs)
    layout = ready.layout
    measured = sensitivities(
        ready.stream,
        layout.linears,
        ready.sequences[:SEQUENCES],
        layout.lm_head,
        int(config["quant"]["calibration"]["seed"]),
        log.progress,
    )
    bits = [width for width in config["target"]["fast_bits"] if width < 16]
    found = table(layout, ready.stream.checkpoint, *measured, bits, config["quant"], log.progress)
    (out / "sensitivity.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    log.note(ready.told)

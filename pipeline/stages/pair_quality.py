"""The gate of a cross-encoder's product: its files, as they will be shipped, on the engine's own embedding class."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.build.stage import Input, Log, Stage
from pipeline.stages.encoder_gate import CONFIG, INPUTS, Reference, run_gate
from pipeline.verify.applies import proves_pairs

STAGE = Stage(
    name="pair_quality",
    module=__name__,
    inputs=(*INPUTS, Input("pair_reference")),
    config=CONFIG,
    tools=("MNN", "numpy"),
    code=("pipeline.mnn.runner",),
    memory=lambda recipe: 1 << 30,
    applies=proves_pairs,
)


def run(config: Mapping[str, Any], inputs: Mapping[str, Path], out: Path, log: Log) -> None:
    """See encoder_gate.run_gate."""
    from pipeline.verify import pairs
    from pipeline.verify.pair_reference import LOGITS, REFERENCE

    run_gate(config, inputs, out, log, Reference("pair_reference", REFERENCE, LOGITS), pairs.judge, _summary)


def _summary(figures: Mapping[str, Any]) -> str:
    found = figures.get("rerank")
    if not found:
        return ""
    return (
        f"logits within {found['max_logit_error']:.4g} of Hugging Face's over {found['pairs']} pairs "
        f"(range {found['logit_range']:.3g}), {found['order']:.1%} of {found['order_of']} documents' order kept"
    )

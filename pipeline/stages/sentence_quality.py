"""The gate of an embedding product: its files, as they will be shipped, on the engine's own embedding class."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.build.stage import Input, Log, Stage
from pipeline.stages.encoder_gate import CONFIG, INPUTS, Reference, run_gate
from pipeline.verify.applies import proves_sentences

STAGE = Stage(
    name="sentence_quality",
    module=__name__,
    inputs=(*INPUTS, Input("sentence_reference")),
    config=CONFIG,
    tools=("MNN", "numpy"),
    code=("pipeline.mnn.runner",),
    memory=lambda recipe: 1 << 30,
    applies=proves_sentences,
)


def run(config: Mapping[str, Any], inputs: Mapping[str, Path], out: Path, log: Log) -> None:
    """See encoder_gate.run_gate."""
    from pipeline.verify import sentences
    from pipeline.verify.sentence_reference import REFERENCE, VECTORS

    run_gate(config, inputs, out, log, Reference("sentence_reference", REFERENCE, VECTORS), sentences.judge, _summary)


def _summary(figures: Mapping[str, Any]) -> str:
    found = figures.get("embedding")
    if not found:
        return ""
    return (
        f"cosine to Hugging Face at least {found['min_cosine']:.6f} over {found['texts']} texts, "
        f"rank correlation of pairs {found['rank_correlation']:.5f}"
    )

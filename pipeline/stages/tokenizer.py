"""Stage `tokenizer`: the engine's tokenizer file and `tokenizer.json`, the facts about it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.build.stage import Input, Log, Stage

STAGE = Stage(
    name="tokenizer",
    module="pipeline.stages.tokenizer",
    inputs=(Input("checkpoint"),),
    config=("target.tokenizer_format", "target.engine"),
    tools=("tokenizers",),
)


def run(config: Mapping[str, Any], inputs: Mapping[str, Path], out: Path, log: Log) -> None:
    """Reads inputs["checkpoint"]; writes tokenizer.mtok (or tokenizer.txt) and tokenizer.json."""
    from pipeline.tokenizer.build import build
    from pipeline.tokenizer.folder import TokenizerFolder

    data, facts = build(TokenizerFolder.open(inputs["checkpoint"]))
    (out / facts.file).write_bytes(data)
    (out / "tokenizer.json").write_text(facts.json(), encoding="utf-8")
    log.note(f"{facts.kind} tokenizer, {facts.vocab_size:,} ids, stops at {facts.stop_ids}")

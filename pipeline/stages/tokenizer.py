"""Stage `tokenizer`: the engine's tokenizer file, and `tokenizer.json`, the facts about it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.build.stage import Input, Log, Stage

FILES = ("*.json", "*.jinja", "tokenizer.model", "merges.txt", "*.tiktoken")
STAGE = Stage(
    name="tokenizer",
    module="pipeline.stages.tokenizer",
    inputs=(Input("checkpoint", FILES),),
    config=("model.task", "target.tokenizer_format", "target.plain_template"),
    tools=("tokenizers", "jinja2"),
)


def run(config: Mapping[str, Any], inputs: Mapping[str, Path], out: Path, log: Log) -> None:
    """Reads inputs["checkpoint"]; writes tokenizer.mtok (or tokenizer.txt) and tokenizer.json into `out`.

    Raises StageFailed naming what the model's tokenizer or chat template needs and the engine does not have.
    """
    from pipeline.tokenizer.build import write
    from pipeline.tokenizer.folder import TokenizerFolder

    target = config.get("target", {})
    facts = write(
        TokenizerFolder.open(inputs["checkpoint"]),
        out,
        str(target.get("tokenizer_format", "mtok")),
        bool(target.get("plain_template", False)),
        embeds=config.get("model", {}).get("task", "text") != "text",
    )
    log.note(
        f"{facts.kind} tokenizer, {facts.vocab_size:,} ids, stops at {', '.join(map(str, facts.stop_ids)) or 'none'}"
    )
    for line in (*facts.rewrites, *facts.fallbacks):
        log.note(f"chat template: {line}")

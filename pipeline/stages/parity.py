"""Stage `parity`: the engine's tokenizer and chat template against Hugging Face's, before there are any weights.

A stage of its own, so that its answer is kept by the digests of both sides' files: the gate only reads it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipeline.build.stage import Input, Log, Stage
from pipeline.verify.applies import proves_text

CHECKPOINT = ("*token*", "*config.json", "*.jinja", "vocab.*", "merges.txt", "*.tiktoken")
STAGE = Stage(
    name="parity",
    module="pipeline.stages.parity",
    inputs=(
        Input("checkpoint", CHECKPOINT),
        Input("tokenizer", ("tokenizer.mtok", "tokenizer.txt", "tokenizer.json")),
    ),
    config=("model.task", "verify.mode"),
    tools=("MNN", "jinja2", "tokenizers", "transformers"),
    warm=("tokenizers", "transformers.utils.chat_template_utils"),
    memory=lambda recipe: 700 << 20,
    applies=proves_text,
)


def run(config: Mapping[str, Any], inputs: Mapping[str, Path], out: Path, log: Log) -> None:
    """Writes parity.json: counts of what was compared and differs, examples, limits; or how the engine crashed.

    Of an embedding model only ids are compared: it embeds a text, not a conversation, and writes nothing.
    """
    from pipeline.errors import StageFailed
    from pipeline.tokenizer.facts import read_facts
    from pipeline.tokenizer.parity.check import FULL_TEXTS, GATE_TEXTS, check_parity
    from pipeline.tokenizer.parity.conversations import CONVERSATIONS

    facts = read_facts(inputs["tokenizer"])
    count = FULL_TEXTS if config["verify"]["mode"] == "full" else GATE_TEXTS
    writes = config["model"].get("task") != "embedding"
    conversations = CONVERSATIONS if writes else ()
    told: dict[str, Any] = {"format": 1, "limits": facts.limits, "fallbacks": facts.fallbacks, "crash": ""}
    try:
        parity = check_parity(
            inputs["tokenizer"], inputs["checkpoint"], count, conversations=conversations, decodes=writes
        )
        told["parity"] = asdict(parity)
        log.note(f"{parity.texts:,} texts and {parity.conversations - parity.refused} prompts compared")
    except StageFailed as error:
        told |= {"crash": str(error), "parity": None}
        log.note(str(error))
    (out / "parity.json").write_text(json.dumps(told, ensure_ascii=False, indent=1, sort_keys=True) + "\n", "utf-8")

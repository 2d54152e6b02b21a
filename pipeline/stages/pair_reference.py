"""A cross-encoder's Hugging Face reference: what it is given for the fixed pairs, and logits, once per source."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.build.stage import Input, Log, Stage
from pipeline.stages.reference import expected_memory, too_big
from pipeline.verify.applies import proves_pairs

STAGE = Stage(
    name="pair_reference",
    module=__name__,
    inputs=(
        Input("source"),
        Input("checkpoint", ("tensors.json", "config.json")),
        Input("graph", ("layout.json",)),
    ),
    config=(
        *("model.trust_remote_code", "model.allow_pickle"),
        *("verify.length", "verify.threads", "verify.reference_memory_gb"),
    ),
    tools=("torch", "transformers", "tokenizers", "safetensors"),
    warm=("pipeline.graph.quick_import",),
    memory=expected_memory,
    applies=proves_pairs,
)


def run(config: Mapping[str, Any], inputs: Mapping[str, Path], out: Path, log: Log) -> None:
    """Write pairs.json ("pairs", "inputs", "groups", "skipped") and, if the model fits into memory, logits.npy: the
    first pairs' logits, float32 [pairs]."""
    import numpy as np
    import torch

    from pipeline.graph import quick_import

    quick_import.load()
    from pipeline.verify import huggingface, pair_reference, pair_text
    from pipeline.verify.file_tokenizer import open_tokenizer

    model, verify = config["model"], config["verify"]
    torch.set_num_threads(int(verify["threads"]))
    layout = json.loads((inputs["graph"] / "layout.json").read_text("utf-8"))
    source, trusted = inputs["source"], bool(model["trust_remote_code"])
    limit = int(layout["max_position_embeddings"])
    tokenizer = open_tokenizer(source, limit, trust_remote_code=trusted)
    names = huggingface.load_tokenizer(source, trust_remote_code=trusted).model_input_names
    scored = pair_text.scored(limit)
    pairs = [*scored, *pair_text.long(limit)]
    given = pair_reference.inputs(tokenizer, names, pairs)
    skipped = too_big(verify, inputs["checkpoint"])
    if skipped:
        log.note(skipped)
    else:
        classifier = pair_reference.load_classifier(source, model)
        np.save(out / pair_reference.LOGITS, pair_reference.logits(classifier, given[: len(scored)]))
    told = {"format": 1, "pairs": pairs, "inputs": given, "groups": pair_text.groups(), "skipped": skipped}
    (out / pair_reference.REFERENCE).write_text(json.dumps(told, ensure_ascii=False) + "\n", "utf-8")

"""The Hugging Face reference: computed once per source, adapter and text, read by the check of every quant."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.build.stage import Input, Log, Stage
from pipeline.errors import StageFailed
from pipeline.verify.applies import proves_text


def expected_memory(recipe: Mapping[str, Any]) -> int:
    """Bytes for the scheduler, from the parameter count that conf/model says (0.5 billion if it says nothing)."""
    parameters = int(float(recipe["model"].get("parameters") or 0.5) * 1e9)
    limit = int(float(recipe["verify"]["reference_memory_gb"]) * 1e9)
    return min(limit, parameters * 4 + (800 << 20))


STAGE = Stage(
    name="reference",
    module=__name__,
    inputs=(
        Input("source"),
        Input("checkpoint", ("tensors.json", "config.json")),
        Input("adapter"),
    ),
    config=(
        "model.trust_remote_code",
        "model.allow_pickle",
        "adapter.mode",
        "adapter.weight",
        "verify.sequences",
        "verify.length",
        "verify.max_new_tokens",
        "verify.question",
        "verify.threads",
        "verify.reference_memory_gb",
    ),
    tools=("torch", "transformers", "tokenizers", "peft", "gguf", "safetensors"),
    warm=("pipeline.graph.quick_import",),
    memory=expected_memory,
    applies=proves_text,
)


def run(config: Mapping[str, Any], inputs: Mapping[str, Path], out: Path, log: Log) -> None:
    """Write `reference.json` and, if the model fits in `verify.reference_memory_gb`, `logits.npy`.

    Raises StageFailed if it fits in the limit but not in the memory that is free now: skipping then would make the
    report depend on what else the machine was doing.
    """
    import torch

    from pipeline.graph import quick_import
    from pipeline.verify import huggingface, reference

    quick_import.load()

    verify, model = config["verify"], config["model"]
    torch.set_num_threads(int(verify["threads"]))
    tokenizer = huggingface.load_tokenizer(inputs["source"], trust_remote_code=bool(model["trust_remote_code"]))
    told = reference.describe(tokenizer, verify)
    told["skipped"] = too_big(verify, inputs["checkpoint"])
    if told["skipped"]:
        log.note(told["skipped"])
    else:
        if origin := huggingface.origin_of_weights(inputs["source"]):
            log.note(origin)
        adapter = inputs["adapter"] if config["adapter"]["mode"] == "merge" else None
        loaded = huggingface.load_model(inputs["source"], model, adapter, float(config["adapter"]["weight"]))
        reference.add_model(told, loaded, tokenizer, verify, out, log)
    reference.write(told, out)


def too_big(verify: Mapping[str, Any], checkpoint: Path) -> str:
    """Why the reference model is not loaded, or the empty string."""
    import psutil

    from pipeline.verify.reference import memory_estimate

    tensors = json.loads((checkpoint / "tensors.json").read_text("utf-8"))["tensors"]
    parameters = sum(math.prod(entry["shape"]) for entry in tensors.values())
    vocabulary = max(entry["shape"][0] for entry in tensors.values() if len(entry["shape"]) == 2)
    needed = memory_estimate(parameters, int(verify["length"]), vocabulary)
    limit, free = float(verify["reference_memory_gb"]) * 1e9, psutil.virtual_memory().available
    if needed > limit:
        return (
            f"the float32 reference needs {needed / 1e9:.1f} GB, more than verify.reference_memory_gb={limit / 1e9:g}: "
            "the self-check, rounding errors, token ids, template and the engine's own answer are checked without it"
        )
    if needed > free:
        raise StageFailed(
            f"the float32 reference needs {needed / 1e9:.1f} GB and {free / 1e9:.1f} GB is free",
            f"free memory, or set verify.reference_memory_gb={max(1, int(free / 1e9))} to verify without it",
        )
    return ""

"""What PEFT says of each split adapter on the Hugging Face model: logits of a few positions, and a greedy answer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.build.stage import Input, Log, Stage
from pipeline.stages.reference import expected_memory

STAGE = Stage(
    name="adapter_reference",
    module=__name__,
    inputs=(
        Input("source"),
        Input("split"),
        Input("reference", ("reference.json",)),
        # Not read: an adapter that is refused is refused once, in its own words, before PEFT stumbles over it.
        Input("adapters", ("facts/adapters.json",)),
    ),
    config=(
        "model.trust_remote_code",
        "model.allow_pickle",
        "adapter.weight",
        "verify.threads",
        "verify.max_new_tokens",
    ),
    tools=("torch", "transformers", "tokenizers", "peft", "gguf", "safetensors"),
    warm=("pipeline.graph.quick_import",),
    memory=expected_memory,
    applies=lambda recipe: bool(recipe["adapter"]["mode"] == "split" and recipe["verify"]["mode"] != "off"),
)


def run(config: Mapping[str, Any], inputs: Mapping[str, Path], out: Path, log: Log) -> None:
    """Writes `answers.json` and, unless the model is too large for a reference, NAME/logits.npy and
    NAME/logits_fp16.npy (float32 [positions, vocabulary]; the second with the base's matrices rounded to fp16)."""
    import torch

    from pipeline.graph import quick_import

    quick_import.load()
    from pipeline.checkpoint.lora_split import split_folders
    from pipeline.verify import adapters, huggingface
    from pipeline.verify.product import read_json

    reference = read_json(inputs["reference"] / "reference.json")
    if reference["skipped"]:
        adapters.write_answers({}, out)
        log.note(str(reference["skipped"]))
        return
    torch.set_num_threads(int(config["verify"]["threads"]))
    model, weight = config["model"], float(config["adapter"]["weight"])
    tokenizer = huggingface.load_tokenizer(inputs["source"], trust_remote_code=bool(model["trust_remote_code"]))
    loaded = huggingface.load_model(inputs["source"], model)
    folders = [(name, path, own * weight) for name, path, own in split_folders(inputs["split"])]
    limit = int(config["verify"]["max_new_tokens"])
    adapters.add_references(loaded, tokenizer, folders, reference, limit, out, log)

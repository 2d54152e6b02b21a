"""The `checkpoint` stage: a Hugging Face folder without weights, whatever the source was, and what its tensors are."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.build.stage import Input, Log, Stage

if TYPE_CHECKING:
    from pipeline.checkpoint.lora import MergedCheckpoint
    from pipeline.checkpoint.tensor import LazyTensor

WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".index.json", "quantize_config.json")
QUANTISATION = ("quantization_config", "compression_config")

STAGE = Stage(
    name="checkpoint",
    module="pipeline.stages.checkpoint",
    inputs=(Input("source"), Input("adapter")),
    config=("adapter.mode", "adapter.weight", "model.allow_pickle"),
    tools=("gguf", "ml_dtypes", "numpy"),
    in_process=True,
    ahead=True,
)


def run(config: Mapping[str, Any], inputs: Mapping[str, Path], out: Path, log: Log) -> None:
    """Write config.json, generation and tokenizer files, tensors.json and small.safetensors (docs/architecture.md)."""
    from pipeline.checkpoint.lora import MergedCheckpoint, adapter_folders
    from pipeline.checkpoint.lora_vocabulary import refuse_new_tokens
    from pipeline.checkpoint.open import gguf_files, open_model
    from pipeline.checkpoint.small import write_small
    from pipeline.graph.thinker import LEFT_OUT, without_speech

    source = inputs["source"]
    checkpoint = open_model(config, inputs)
    if files := gguf_files(source):
        _from_gguf(files[0], {name: tensor.shape for name, tensor in checkpoint.items()}, out)
    else:
        _copy_small_files(source, out)
    if isinstance(checkpoint, MergedCheckpoint):
        for path, _ in adapter_folders(inputs["adapter"]):
            refuse_new_tokens(path, out, "the adapter")
        _after_merge(checkpoint, out, log)
    kept = without_speech(json.loads((out / "config.json").read_text(encoding="utf-8")), checkpoint)
    if len(kept) < len(checkpoint):
        log.note(f"{LEFT_OUT} ({len(checkpoint) - len(kept)} tensors)")
    table = {name: _facts(tensor) for name, tensor in kept.items()}
    _write_json(out / "tensors.json", {"tensors": table})
    count = write_small(kept, out / "small.safetensors")
    log.note(f"{len(table)} tensors, {count} of them small; stored as {_types(table)}")


def _types(table: Mapping[str, Mapping[str, Any]]) -> str:
    """"90 BF16, 168 GPTQ4": in which types the source's tensors come."""
    counts = Counter(str(facts["dtype"]) for facts in table.values())
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))


def _facts(tensor: LazyTensor) -> dict[str, Any]:
    """A tensor's entry in tensors.json; `lattice` where its codes can go over to the engine as they are."""
    from pipeline.checkpoint.tensor import QuantisedTensor

    facts: dict[str, Any] = {"shape": list(tensor.shape), "dtype": tensor.dtype}
    if isinstance(tensor, QuantisedTensor):
        facts["lattice"] = {"bits": tensor.bits, "block": tensor.block, "symmetric": tensor.symmetric}
    return facts


def _copy_small_files(source: Path, out: Path) -> None:
    """All but weights; config.json no longer says how the source was quantised, for its tensors are read plain.

    Of a model that also speaks it is the part that writes.
    """
    from pipeline.graph.thinker import thinker

    for path in sorted(source.iterdir()):
        if path.is_file() and not path.name.endswith(WEIGHTS):
            shutil.copyfile(path, out / path.name)
    for path in sorted(source.glob("[0-9]*/config.json")):  # of sentence-transformers' modules
        (out / path.parent.name).mkdir(exist_ok=True)
        shutil.copyfile(path, out / path.parent.name / path.name)
    config = json.loads((out / "config.json").read_text(encoding="utf-8"))
    plain = {key: value for key, value in thinker(config).items() if key not in QUANTISATION}
    if plain != config:
        _write_json(out / "config.json", plain)


def _from_gguf(path: Path, shapes: Mapping[str, tuple[int, ...]], out: Path) -> None:
    from pipeline.checkpoint.gguf_config import config_from_gguf, generation_config_from_gguf
    from pipeline.checkpoint.gguf_header import read_header
    from pipeline.checkpoint.gguf_rope import rope_tables
    from pipeline.checkpoint.gguf_tokenizer import tokenizer_config_from_gguf, tokenizer_from_gguf

    metadata = read_header(path).metadata
    _write_json(out / "config.json", config_from_gguf(metadata, shapes, rope_tables(path)))
    _write_json(out / "generation_config.json", generation_config_from_gguf(metadata))
    _write_json(out / "tokenizer.json", tokenizer_from_gguf(metadata))
    _write_json(out / "tokenizer_config.json", tokenizer_config_from_gguf(metadata))


def _after_merge(checkpoint: MergedCheckpoint, out: Path, log: Log) -> None:
    log.note(f"adapter merged into {len(checkpoint.changed)} tensors")
    if checkpoint.untied:
        config = json.loads((out / "config.json").read_text(encoding="utf-8"))
        _write_json(out / "config.json", {**config, "tie_word_embeddings": False})
        log.note("embedding and lm_head are no longer tied: the adapter changes them differently")


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")

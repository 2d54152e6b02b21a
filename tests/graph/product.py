"""A tiny model through the real stages to a folder that the engine opens; tokenizer and config files are minimal."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import safe_open

from pipeline.build.config import subset
from pipeline.build.store import hash_file
from pipeline.mnn.runner import Engine
from pipeline.recipe.schema import Recipe
from pipeline.stages import checkpoint, graph, link, places, weights

Logits = npt.NDArray[np.float32]


def recipe(allow_approximate: bool = False, fuse_c4: bool = True) -> dict[str, Any]:
    """A whole recipe in fp16, everything else as the schema has it."""
    whole = asdict(Recipe())
    whole["quant"] |= {"bits": 16, "block": 0}
    whole["graph"]["allow_approximate"] = allow_approximate
    whole["target"]["graph"]["fuse_c4"] = fuse_c4
    return whole


class Silent:
    """A stage's log that keeps its notes."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def progress(self, done: int, total: int, what: str) -> None: ...

    def note(self, text: str) -> None:
        self.notes.append(text)


def build(source: Path, work: Path, allow_approximate: bool = False, fuse_c4: bool = True) -> Path:
    """checkpoint → graph → places → weights → link in fp16; returns the product's folder, `work`/product."""
    whole = recipe(allow_approximate, fuse_c4)
    folders = {"source": source, "adapter": work / "adapter"}
    folders["adapter"].mkdir(parents=True)
    for module in (checkpoint, graph, places, weights, link):
        stage = module.STAGE
        out = work / stage.name
        out.mkdir()
        digests = module.run(subset(whole, stage.config), folders, out, Silent()) or {}
        assert digests == {name: hash_file(out / name) for name in digests}
        folders[stage.name] = out
    return _assemble(source, folders, work / "product")


def layout_of(product: Path) -> dict[str, Any]:
    """layout.json of a folder that `build` made."""
    layout: dict[str, Any] = json.loads((product.parent / "graph" / "layout.json").read_text())
    return layout


def operators(product: Path) -> list[str]:
    """The kinds of the final graph's operators."""
    return [operator["type"] for operator in json.loads((product / "llm.mnn.json").read_text())["oplists"]]


def engine_logits(product: Path, ids: list[int], prefill: int) -> Logits:
    """float32 [len(ids), vocabulary]: the first `prefill` in one pass, each further id as a cached decode step."""
    exact = {"precision": "high", "memory": "high", "thread_num": 1}
    with Engine(product, exact, timeout=60) as engine:
        rows = engine.logits(ids[:prefill])
        engine.prefill(ids[:prefill])
        return np.concatenate([rows, *(engine.step(token)[None] for token in ids[prefill:])])


def reference_logits(model: Any, ids: list[int]) -> Logits:
    """float32 [len(ids), vocabulary] of the Hugging Face model in one pass without a cache."""
    with torch.no_grad():
        logits: Logits = model(torch.tensor([ids]), use_cache=False).logits[0].float().numpy()
    return logits


def _assemble(source: Path, folders: Mapping[str, Path], product: Path) -> Path:
    product.mkdir()
    for stage, name in (("weights", "llm.mnn.weight"), ("link", "llm.mnn"), ("link", "llm.mnn.json")):
        (product / name).symlink_to(folders[stage] / name)
    layout = json.loads((folders["graph"] / "layout.json").read_text())
    with safe_open(source / "model.safetensors", "pt") as file:
        table = file.get_tensor(layout["embedding"]["parts"][0]["tensor"]).to(torch.bfloat16)
    (product / "embeddings_bf16.bin").write_bytes(table.contiguous().view(torch.int16).numpy().tobytes())
    (product / "tokenizer.txt").write_text("430 3\n0 1 0\n2\n3 0\na\nb\nc\n")
    keys = ("hidden_size", "attention_type", "sliding_window")
    engine = {"attention_mask": "float", "is_mrope": False, **{key: layout[key] for key in keys}}
    (product / "llm_config.json").write_text(json.dumps(engine))
    (product / "config.json").write_text(json.dumps({"llm_model": "llm.mnn", "llm_weight": "llm.mnn.weight"}))
    return product

"""The architecture self-check: a small random model of the same kind through our own stages, against Hugging Face."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from pipeline.build.config import strict, subset
from pipeline.build.stage import Log
from pipeline.graph.towers import families
from pipeline.mnn.runner import Engine
from pipeline.recipe.schema import Recipe
from pipeline.stages import (
    audio_graph,
    audio_link,
    audio_weights,
    checkpoint,
    embedding,
    link,
    pair,
    places,
    tokenizer,
    visual_graph,
    visual_link,
    visual_weights,
    weights,
)
from pipeline.stages import config as config_stage
from pipeline.stages import graph as graph_stage
from pipeline.verify import huggingface
from pipeline.verify.metrics import Logits, relative_errors
from pipeline.verify.product import EXACT, assemble

STAGES: tuple[ModuleType, ...] = (
    checkpoint, pair, graph_stage, places, weights, embedding, link, tokenizer, config_stage,
)  # fmt: skip
ENCODERS: dict[str, tuple[ModuleType, ...]] = {
    "visual": (visual_graph, visual_weights, visual_link),
    "audio": (audio_graph, audio_weights, audio_link),
}
SHIPPED = ("weights", "embedding", "link", "config", "tokenizer")
PREFILL = 40  # longer than the shrunk sliding window, so that some keys are out of sight
DECODE = 8
SEED = 7


class _Silent(Log):
    """The inner stages' progress is not the user's."""

    def progress(self, done: int, total: int, what: str) -> None:
        pass

    def note(self, text: str) -> None:
        pass


def fp16_recipe(
    model: Mapping[str, Any], target: Mapping[str, Any], graph_options: Mapping[str, Any]
) -> dict[str, Any]:
    """The recipe of the small model: the user's target and graph, fp16 so that nothing is lost."""
    recipe = asdict(Recipe())
    recipe["model"] |= {"trust_remote_code": bool(model["trust_remote_code"]), "modalities": [*families.SECTIONS]}
    recipe["quant"] |= {"name": "fp16", "bits": 16, "block": 0}
    return {**recipe, "target": target, "graph": graph_options}


def build(source: Path, work: Path, recipe: Mapping[str, Any], encoders: Sequence[str] = ()) -> Path:
    """Take a Hugging Face folder through the stages, in this process; the product's folder, ready for the engine."""
    outputs = {"source": source}
    first, *others = STAGES
    for module in (first, *(module for kind in encoders for module in ENCODERS[kind]), *others):
        stage = module.STAGE
        if not stage.applies(recipe):
            continue
        out = work / stage.name
        out.mkdir(parents=True)
        inputs = {edge.stage: outputs[edge.stage] for edge in stage.inputs if edge.stage in outputs}
        module.run(strict(subset(recipe, stage.config), stage.config), inputs, out, _Silent())
        outputs[stage.name] = out
    shipped = [*SHIPPED, *(f"{kind}_{part}" for kind in encoders for part in ("graph", "weights", "link"))]
    return assemble([outputs[name] for name in shipped], work / "product")


def random_tokens(vocabulary: int) -> list[int]:
    """PREFILL + DECODE token ids."""
    generator = np.random.default_rng(SEED)
    return [int(token) for token in generator.integers(3, vocabulary, PREFILL + DECODE)]


def engine_logits(product: Path, ids: list[int]) -> Logits:
    """float32 [PREFILL + DECODE, vocabulary]: all positions of the prefill, then one row per cached decode step."""
    with Engine(product, {**EXACT, "thread_num": 1}) as engine:
        prefill = engine.logits(ids[:PREFILL])
        engine.prefill(ids[:PREFILL])
        steps = [engine.step(token) for token in ids[PREFILL:]]
    return np.concatenate([prefill, np.stack(steps)])


def compare(reference: Logits, engine: Logits) -> dict[str, float]:
    """Largest errors of prefill and decode, as shares of the reference's largest logit."""
    errors = relative_errors(reference, engine, PREFILL)
    return {"max_logit": float(np.abs(reference).max()), "error": max(errors.values()), **errors}


def reference_logits(model: Any, ids: list[int]) -> Logits:
    """The same rows as `engine_logits`, by Hugging Face in float32 with its own cache."""
    return huggingface.decode_logits(model, ids[:PREFILL], ids[PREFILL:])


def approximations(work: Path) -> list[str]:
    """What the graph that `build` made in `work` leaves out of the model."""
    layout = json.loads((work / graph_stage.STAGE.name / "layout.json").read_text("utf-8"))
    return list(layout["approximations"])

"""Rules between the fields of a recipe, checked before any work. Each broken rule is one UserError.

`validate` needs the recipe alone; `validate_against_model` needs the model's config.json as well, and runs as soon as
that is known (still before the first tensor is read).
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.graph.support import ENCODERS, RECURRENT, check_model_type, check_softcap
from pipeline.graph.thinker import thinker
from pipeline.graph.towers import families
from pipeline.recipe import tasks
from pipeline.recipe.experts import refuse_uncalibrated
from pipeline.recipe.schema import Audio, Quant, Recipe, Rule, Visual
from pipeline.runtime.check import modernised, refuse
from pipeline.runtime.key import version
from pipeline.runtime.recurrent import check_recurrent
from pipeline.weights import algorithms

HUBS = ("huggingface", "modelscope", "local", "package")
EMBEDDING_BITS = (4, 8, 16)  # the engine's embedding reader knows no other: diskembedding.cpp
BLOCK_STEP = 16  # the engine's converter ignores any block that is not a multiple: WeightQuantAndCoding.cpp

_CHOICES: dict[str, tuple[str, ...]] = {
    "model.hub": HUBS,
    "model.task": ("text", "embedding", "rerank"),
    "model.pooling": ("", "cls", "mean", "last", "max"),
    "adapter.mode": ("none", "merge", "split"),
    "embedding.mode": ("auto", "tied", "separate"),
    "verify.mode": ("fast", "full", "off"),
    "cache.remote_mode": ("off", "read", "readwrite"),
    "target.tokenizer_format": ("mtok", "txt"),
    "target.tie_embeddings": ("dict", "list"),
    "visual.mode": ("auto", "off"),
    "audio.mode": ("auto", "off"),
    "visual.positions": ("exact", "engine"),
}


def apply_target(recipe: Recipe, explicit: Collection[str]) -> None:
    """Let the target choose what only it can know, in place: the scales' width, successors of old run-time names.

    explicit: the keys that the person wrote; what was asked for by hand is never changed but refused. Raises UserError.
    """
    forced = recipe.target.scale_bits
    if forced is not None and forced != recipe.quant.scale_bits:
        if "quant.scale_bits" in explicit:
            raise UserError(
                f"target '{recipe.target.name}' reads scales of {forced} bits only, not quant.scale_bits="
                f"{recipe.quant.scale_bits}",
                "leave quant.scale_bits out",
            )
        recipe.quant.scale_bits = forced
    if not recipe.target.exact_positions and recipe.visual.positions == "exact":
        if "visual.positions" in explicit:
            raise UserError(
                f"target '{recipe.target.name}' computes in half precision, which cannot count positions",
                "set visual.positions=engine",
            )
        recipe.visual.positions = "engine"
    recipe.target.runtime, _ = modernised(recipe.target.runtime)


def validate(recipe: Recipe) -> None:
    """Raises UserError for the first rule that the recipe breaks."""
    _check_choices(recipe)
    _check_source(recipe)
    check_model_type(recipe.model.family)
    check_softcap(recipe.model.family, None, recipe.graph.allow_approximate)
    _check_adapter(recipe)
    _check_quant(recipe)
    _check_task(recipe)
    _check_encoder(recipe, "visual")
    _check_encoder(recipe, "audio")
    _check_embedding(recipe)
    _check_target(recipe)
    _check_recurrent(recipe, recipe.model.family)
    if recipe.visual.mode != "off":
        families.check_positions(recipe.model.family, recipe.visual.positions)
    _check_verify(recipe)


def _check_choices(recipe: Recipe) -> None:
    for path, allowed in _CHOICES.items():
        section, key = path.split(".")
        value = getattr(getattr(recipe, section), key)
        if value not in allowed:
            raise UserError(f"{path} must be one of {', '.join(allowed)}, not '{value}'")


def _check_source(recipe: Recipe) -> None:
    model = recipe.model
    if model.hub == "local" and not model.path:
        raise UserError("model=local needs the model's folder", "add model.path=DIR")
    if model.hub == "huggingface" and not model.repo:
        raise UserError(f"model '{model.name}' names no repository", "give model.repo=OWNER/NAME")
    if model.hub == "modelscope" and not (model.modelscope_repo or model.repo):
        raise UserError(f"model '{model.name}' names no ModelScope repository", "give model.modelscope_repo=OWNER/NAME")
    if model.hub == "package" and not (model.package.distribution and model.package.file):
        raise UserError(f"model '{model.name}' names no file of a package", "give model.package.distribution and .file")
    for key, value in (("repo", model.repo), ("modelscope_repo", model.modelscope_repo)):
        if value and not re.fullmatch(r"[\w.-]+/[\w.-]+", value):
            raise UserError(f"model.{key}={value} is not of the form OWNER/NAME")


def _check_adapter(recipe: Recipe) -> None:
    adapter = recipe.adapter
    if adapter.mode != "none" and not adapter.path:
        raise UserError(f"adapter={adapter.mode} needs the adapter's folder", "add adapter.path=DIR")
    if adapter.mode == "none" and adapter.path:
        raise UserError("adapter.path is given, but adapter=none would ignore it", "add adapter=merge or adapter=split")
    if adapter.mode == "split" and "awq" in {recipe.quant.algorithm, *(rule.algorithm for rule in recipe.quant.rules)}:
        raise UserError("awq scales what linears read, and a split adapter's would stay as they are",
                        "use adapter=merge, or another quant, say quant=int4-wmse")


def _check_task(recipe: Recipe) -> None:
    model, names = recipe.model, {recipe.quant.algorithm, *(rule.algorithm for rule in recipe.quant.rules)}
    if model.task == "text":
        if model.pooling:
            raise UserError("model.pooling is for embedding models", "add model.task=embedding")
        if model.family in ENCODERS:
            raise UserError(f"{model.family} models do not write text", "add model.task=embedding or model.task=rerank")
        return
    if model.pooling and model.task == "rerank":
        raise UserError("model.pooling is for embedding models; a reranker has a head of its own", "leave it out")
    if recipe.adapter.mode != "none":
        kind = "embedding models" if model.task == "embedding" else "rerankers"
        raise UserError(f"adapters of {kind} are not supported", "merge it into the model's folder first")
    calibrated = sorted(name for name in names if name in algorithms.CALIBRATED)
    if calibrated:
        raise UserError(f"quant.algorithm={calibrated[0]} calibrates on models that write text", "use rtn, mse or hqq")


def _check_quant(recipe: Recipe) -> None:
    quant = recipe.quant
    for algorithm in (quant.algorithm, *(rule.algorithm for rule in quant.rules if rule.algorithm is not None)):
        algorithms.check(algorithm)
    if quant.scale_bits not in (16, 32):
        raise UserError(f"quant.scale_bits must be 16 or 32, not {quant.scale_bits}")
    for where, bits in _widths(quant):
        _check_bits(recipe, where, bits)
    for where, block in _blocks(quant):
        _check_block(where, block)
    for index, rule in enumerate(quant.rules):
        _check_rule(index, rule)
    for key in ("target_bytes", "target_bpw", "max_kld"):
        value = getattr(quant, key)
        if value is not None and value <= 0:
            raise UserError(f"quant.{key} must be above 0, not {value}")
    if quant.symmetric and "hqq" in {quant.algorithm, *(rule.algorithm for rule in quant.rules)}:
        step = "use quant=int4-mse quant.symmetric=true"
        raise UserError("hqq tunes zero points, and symmetric weights have none", step)
    refuse_uncalibrated(quant, recipe.model.family, {})
    if quant.calibration.sequences < 1 or quant.calibration.length < 1:
        raise UserError("quant.calibration needs at least one sequence of one token")


def _widths(quant: Quant) -> Iterator[tuple[str, int]]:
    yield "quant.bits", quant.bits
    if quant.lm_bits is not None:
        yield "quant.lm_bits", quant.lm_bits
    for index, rule in enumerate(quant.rules):
        if rule.bits is not None:
            yield f"quant.rules[{index}].bits", rule.bits


def _blocks(quant: Quant) -> Iterator[tuple[str, int]]:
    yield "quant.block", quant.block
    if quant.lm_block is not None:
        yield "quant.lm_block", quant.lm_block
    for index, rule in enumerate(quant.rules):
        if rule.block is not None:
            yield f"quant.rules[{index}].block", rule.block


def _check_bits(recipe: Recipe, where: str, bits: int) -> None:
    if bits not in recipe.target.bits:
        allowed = ", ".join(str(width) for width in recipe.target.bits)
        near = min(recipe.target.bits, key=lambda width: abs(width - bits), default=bits)
        raise UserError(
            f"{where}={bits}: target '{recipe.target.name}' runs {allowed} bits only", f"try {where}={near}"
        )


def _check_block(where: str, block: int) -> None:
    if block != 0 and (block < BLOCK_STEP or block % BLOCK_STEP):
        near = max(BLOCK_STEP, round(block / BLOCK_STEP) * BLOCK_STEP)
        raise UserError(
            f"{where}={block} must be 0 (one scale per output channel) or a multiple of {BLOCK_STEP}",
            f"try {where}={near}",
        )


def _check_encoder(recipe: Recipe, kind: str) -> None:
    encoder: Visual | Audio = getattr(recipe, kind)
    algorithms.check(encoder.algorithm)
    if encoder.algorithm in algorithms.CALIBRATED:
        raise UserError(
            f"{kind}.algorithm={encoder.algorithm} looks at calibration text, which no picture or sound goes through",
            "use rtn, mse or hqq",
        )
    if kind in recipe.model.modalities:  # a target for text only need not run an encoder's default of 16 bits
        _check_bits(recipe, f"{kind}.bits", encoder.bits)
    _check_block(f"{kind}.block", encoder.block)
    for index, rule in enumerate(encoder.rules):
        _check_rule(index, rule, kind)


def _check_rule(index: int, rule: Rule, section: str = "quant") -> None:
    if not rule.pattern:
        raise UserError(f"{section}.rules[{index}] has no pattern", "an empty one would match every tensor: write '.*'")
    try:
        re.compile(rule.pattern)
    except re.error as error:
        where = f"{section}.rules[{index}].pattern"
        raise UserError(f"{where} '{rule.pattern}' is no regular expression: {error}") from None


def _check_embedding(recipe: Recipe) -> None:
    embedding, head = recipe.embedding, head_bits(recipe.quant)
    if embedding.bits not in EMBEDDING_BITS:
        raise UserError(f"embedding.bits must be 4, 8 or 16, not {embedding.bits}")
    if embedding.mode == "tied" and head not in EMBEDDING_BITS:
        raise UserError(
            f"embedding=tied shares the head's {head}-bit rows, but the engine reads 4, 8 or 16 bits there only",
            "set quant.lm_bits=8 or embedding=separate",
        )


def head_bits(quant: Quant) -> int:
    """Width of the output head: `lm_bits`, or the body's."""
    return quant.bits if quant.lm_bits is None else quant.lm_bits


def _check_target(recipe: Recipe) -> None:
    target = recipe.target
    if not re.fullmatch(r"\d+\.\d+\.\d+", target.engine):
        raise UserError(f"target.engine={target.engine} is not a version such as 3.6.1")
    if target.symmetric_only and not recipe.quant.symmetric and recipe.quant.bits < 16:
        raise UserError(f"target '{target.name}' runs symmetric weights only", "add quant.symmetric=true")
    if target.graph.fuse_c4 and version(target.engine) < (3, 6, 1):
        raise UserError(f"engine {target.engine} cannot run a C4-fused graph", "set target.graph.fuse_c4=false")
    if version(target.engine) < (3, 6, 0) and target.tie_embeddings == "dict":
        raise UserError(f"engine {target.engine} reads tie_embeddings as a list only", "set target.tie_embeddings=list")
    if target.tie_embeddings == "list" and version(target.engine) < (3, 6, 0) and recipe.quant.scale_bits != 32:
        raise UserError(f"engine {target.engine} reads scales of 32 bits only", "set quant.scale_bits=32")
    refuse(target.runtime, "target.runtime", target.engine)


def _check_recurrent(recipe: Recipe, model_type: str) -> None:
    """What the engine cannot do with a model of that type, if it has a recurrent state."""
    target = recipe.target
    for line in check_recurrent(target.runtime, target.engine) if model_type in RECURRENT else ():
        raise UserError(f"target '{target.name}', {line}", "choose another target, or leave the key out")


def _check_verify(recipe: Recipe) -> None:
    verify = recipe.verify
    for key in ("sequences", "length", "max_new_tokens", "threads"):
        if getattr(verify, key) < 1:
            raise UserError(f"verify.{key} must be at least 1, not {getattr(verify, key)}")
    if not re.fullmatch(r"\d+(\.\d+)?\s*([KMGT]i?)?B?", recipe.cache.keep, re.IGNORECASE):
        raise UserError(f"cache.keep={recipe.cache.keep} is not a size", "write it like 20GB")


def notes(recipe: Recipe) -> Iterator[str]:
    """Lines that are no error, but that a person should know before waiting."""
    slow = sorted({bits for _, bits in _widths(recipe.quant) if bits not in recipe.target.fast_bits})
    for bits in slow:
        yield f"{bits} bits save disk only on target '{recipe.target.name}': the engine widens them to 8 in memory"


def validate_against_model(recipe: Recipe, config: Mapping[str, Any]) -> None:
    """Check the recipe against the model's config.json. Raises UserError: block sizes, impossible tying."""
    config, quant = thinker(config), recipe.quant
    families.check(config, {"visual": recipe.visual.mode != "off", "audio": recipe.audio.mode != "off"})
    if recipe.visual.mode != "off":
        families.check_positions(str(config.get("model_type", "")), recipe.visual.positions)
    tasks.check(recipe.model.task, config)
    _check_task(recipe)
    text = text_config(config)
    check_model_type(str(text.get("model_type", "")))
    _check_recurrent(recipe, str(text.get("model_type", "")))
    check_softcap(str(text.get("model_type", "")), text, recipe.graph.allow_approximate)
    refuse_uncalibrated(quant, str(text.get("model_type", "")), text)
    sizes = input_sizes(text)
    width = {name: size for name, size in sizes.items() if name == "hidden_size"}
    if quant.bits < 16 and not any(rule.block is not None or rule.bits == 16 or rule.keep for rule in quant.rules):
        _check_divides("quant.block", quant.block, sizes)  # else the weights stage knows which linears it is for
    if quant.lm_block is not None and head_bits(quant) < 16:
        _check_divides("quant.lm_block", quant.lm_block, width)
    if recipe.embedding.mode == "tied" and not is_tied(config):
        raise UserError(
            f"embedding=tied: model '{recipe.model.name}' has an embedding and a head of their own",
            "leave embedding out, or use embedding=separate",
        )


def validate_local(recipe: Recipe) -> None:
    """`validate_against_model` for a model whose folder is here already; nothing for any other source.

    A folder without a readable config.json is the source stage's to refuse.
    """
    file = Path(recipe.model.path) / "config.json"
    if recipe.model.hub != "local" or not file.is_file():
        return
    with contextlib.suppress(ValueError, OSError):
        config = json.loads(file.read_text("utf-8"))
        if isinstance(config, dict):
            validate_against_model(recipe, config)


def _check_divides(where: str, block: int, sizes: Mapping[str, int]) -> None:
    for name, size in sizes.items():
        if block and size % block:
            fits = [step for step in range(BLOCK_STEP, 257, BLOCK_STEP) if all(s % step == 0 for s in sizes.values())]
            step = f"use {where}={min(fits, key=lambda b: abs(b - block))}" if fits else f"use {where}=0"
            raise UserError(f"{where}={block} does not divide the model's {name} of {size}", step)


def text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The decoder's part of a config.json (that of a vision model lies in text_config)."""
    inner = config.get("text_config")
    return inner if isinstance(inner, Mapping) else config


def input_sizes(text: Mapping[str, Any]) -> dict[str, int]:
    """Names and lengths of the axes that blocks cut: inputs of the decoder's linears, as far as config.json tells."""
    names = {
        "hidden_size": ("hidden_size", "n_embd", "d_model"),
        "intermediate_size": ("intermediate_size", "ffn_dim", "n_inner"),
    }
    sizes = {
        name: value
        for name, keys in names.items()
        for value in [next((text[key] for key in keys if isinstance(text.get(key), int)), None)]
        if value is not None
    }
    heads, head_dim = text.get("num_attention_heads"), text.get("head_dim")
    if isinstance(heads, int) and isinstance(head_dim, int) and not text.get("kv_lora_rank"):
        sizes["attention output"] = heads * head_dim
    if isinstance(text.get("moe_intermediate_size"), int):
        sizes["moe_intermediate_size"] = text["moe_intermediate_size"]
    return sizes


def is_tied(config: Mapping[str, Any]) -> bool:
    """Whether the model's head is its embedding. Absent means tied: transformers' default for years, and Gemma's."""
    outer = config.get("tie_word_embeddings")
    return bool(text_config(config).get("tie_word_embeddings", True) if outer is None else outer)

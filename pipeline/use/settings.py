"""What all verbs share: a product's path, `--set key=value`, and how long an answer may be."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.mnn.runner import Engine
from pipeline.mnn.runner.product import Product, open_product
from pipeline.runtime.check import check_key
from pipeline.runtime.keys import KEYS
from pipeline.runtime.product import parse_assignment
from pipeline.use.sampler import GREEDY, Sampling, from_config

# Keys that the sampler reads: they take effect at once, all others need a freshly loaded engine.
SAMPLER_KEYS = frozenset(
    (
        *("sampler_type", "mixed_samplers", "temperature", "top_k", "topK", "top_p", "topP", "min_p", "minP"),
        *("tfs_z", "tfsZ", "typical", "repetition_penalty", "penalty", "presence_penalty", "frequency_penalty"),
        *("penalty_window", "penalty_sampler", "logit_bias", "banned_tokens", "n_gram", "ngram_factor"),
    )
)
_DEFAULT_NEW_TOKENS = 512
# Written by exporters for people and for us; the engine reads none of them.
DESCRIPTIVE = frozenset({"model_type", "max_position_embeddings", "model_name"})

# model.task of products that write nothing → (what they do, the verb for it)
_SILENT = {"embedding": ("makes embeddings", "embed"), "rerank": ("scores pairs of texts", "rerank")}


def add_product_options(parser: argparse.ArgumentParser) -> None:
    """PRODUCT and the options with which it is loaded."""
    parser.add_argument("product", type=Path, help="a product's folder, one of its config files, or an llm.mnn")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="assignments",
                        help="a key of config.json for this session (docs/runtime.md)")  # fmt: skip
    parser.add_argument("--adapter", default="", metavar="FILE", help="a split LoRA beside the model, e.g. lora.mnn")
    parser.add_argument("--allow-net", action="store_true", help="let <img>http…</img> fetch a picture")
    parser.add_argument("--timeout", type=float, default=600.0, help="seconds for one call of the engine")


def add_sampling_options(parser: argparse.ArgumentParser) -> None:
    """How answers are drawn."""
    parser.add_argument("--max-new-tokens", type=positive, help="longest answer (default: the product's own)")
    parser.add_argument("--seed", type=int, help="draw the same tokens every time")
    parser.add_argument("--greedy", action="store_true", help="always the likeliest token")


def positive(text: str) -> int:
    """An argparse type: a whole number from 1 on."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value


def overrides(assignments: Sequence[str]) -> dict[str, Any]:
    """`key=value` texts as a dict, checked. Raises UserError for an unknown key or a wrong value."""
    return dict(parse_assignment(text) for text in assignments)


def check_keys(path: Path) -> Product:
    """The product at `path`. Raises UserError for a wrong value, or a path that leaves the folder; says which keys the
    engine does not read."""
    product = open_product(path)
    for name, value in product.config.items():
        problems = check_key(name, value)
        if problems and name in KEYS:
            raise UserError(f"{path}: {problems[0]}", "mend it with `python -m pipeline config`")
        if problems and name not in DESCRIPTIVE:
            print(f"note: {path}: {problems[0]}", file=sys.stderr)
    return product


def open_engine(arguments: argparse.Namespace, changes: dict[str, Any]) -> Engine:
    """The product on the engine (not loaded yet), `changes` merged last. Raises UserError as `check_keys`, and for an
    embedding product or a cross-encoder, which write no text."""
    product = check_keys(arguments.product)
    task = product.manifest.get("model", {}).get("task")
    if task in _SILENT:
        does, verb = _SILENT[task]
        raise UserError(f"{arguments.product} {does} and writes no text", f"use `python -m pipeline {verb}`")
    return Engine(arguments.product, changes, arguments.timeout, sampled=True, adapter=arguments.adapter)


def sampling_of(engine: Engine, changes: dict[str, Any], greedy: bool) -> Sampling:
    """The product's sampler with this session's changes."""
    return GREEDY if greedy else from_config({**engine.config, **changes})


def new_tokens(engine: Engine, asked: int | None) -> int:
    """The longest answer: as asked, as the product says, or 512."""
    return asked or int(engine.config.get("max_new_tokens", _DEFAULT_NEW_TOKENS))

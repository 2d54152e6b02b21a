"""A small model of the same architecture: what the self-check takes through the pipeline instead of gigabytes.

Always: as few layers as show every kind of layer that the config names (two at least), a sliding window short enough to
be crossed, a vocabulary of at most 4,096. Only if that still leaves more than 40 million parameters: fewer heads (head
size and the ratio of query to key heads stay), fewer experts, and a hidden size to match. What is left out is thereby
only size: kinds of layers, attention, RoPE, norms, biases, experts and tied embeddings are those of the model.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from pipeline.graph.towers.loader import loader
from pipeline.verify.shrink_encoders import decoder_layers, shrink_encoders

VOCABULARY = 4096
WINDOW = 16
LAYERS = 2
PARAMETERS = 40_000_000
KV_HEADS = 2
EXPERTS = 8
EXPERTS_PER_TOKEN = 2
HIDDEN = 1024
EXPERT_WIDTH = 256

EXPERT_COUNTS = ("num_experts", "num_local_experts", "n_routed_experts")
DENSE_LAYERS = ("first_k_dense_replace", "num_dense_layers")  # how many layers come before the first with experts
EXPERT_GROUPS = ("n_group", "topk_group")
EXPERT_WIDTHS = ("moe_intermediate_size", "shared_expert_intermediate_size")
WINDOWS = ("sliding_window", "attention_window_size")
SPECIAL_TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id")


@dataclass(frozen=True)
class Shrunk:
    """config: the small model's. layers: which of the model's layers it has. scaled: whether widths were cut too."""

    config: Any
    layers: list[int]
    scaled: bool


def shrink(config: Any) -> Shrunk:
    """A copy of a transformers config, small enough to build, export and run in seconds; the original stays."""
    small = copy.deepcopy(config)
    text = small.get_text_config()
    layers = representative_layers(text)
    layers = sorted({*layers, *range(min(decoder_layers(small), int(text.num_hidden_layers)))})
    _keep_layers(text, layers)
    _cut_vocabulary(text)
    for name in WINDOWS:
        if getattr(text, name, None):
            setattr(text, name, min(int(getattr(text, name)), WINDOW))
    shrink_encoders(small)
    if count_parameters(small) <= PARAMETERS:
        return Shrunk(small, layers, scaled=False)
    scale_widths(text)
    shrink_encoders(small)
    return Shrunk(small, layers, scaled=True)


def representative_layers(config: Any) -> list[int]:
    """The first layer of each kind, in order; kinds are told apart by the config's per-layer lists. At least two."""
    count = int(config.num_hidden_layers)
    kinds = list(zip(*(value for _, value in _per_layer(config, count)), strict=True)) or [()] * count
    first = {kind: index for index, kind in reversed(list(enumerate(map(str, kinds))))}
    chosen = set(first.values()) | _special_layers(config, count)
    for index in range(count):
        if len(chosen) >= LAYERS:
            break
        chosen.add(index)
    return sorted(chosen)


def count_parameters(config: Any) -> int:
    """Parameters of the config's model, from shapes alone."""
    import torch

    build: Any = loader(config).from_config
    with torch.device("meta"):
        return int(sum(parameter.numel() for parameter in build(config).parameters()))


def scale_widths(config: Any) -> None:
    """Fewer heads, experts and columns, in place; head size and the number of query heads per key head stay."""
    heads, hidden = int(config.num_attention_heads), int(config.hidden_size)
    kv_heads = int(getattr(config, "num_key_value_heads", None) or heads)
    size = int(getattr(config, "head_dim", None) or hidden // heads)
    few = min(kv_heads, KV_HEADS if KV_HEADS * (heads // kv_heads) * size <= 2 * HIDDEN else 1)
    config.num_attention_heads = few * (heads // kv_heads)
    if getattr(config, "num_key_value_heads", None):
        config.num_key_value_heads = few
    tied = heads * size == hidden and not getattr(config, "head_dim", None)
    config.hidden_size = config.num_attention_heads * size if tied else min(hidden, HIDDEN)
    _scale_feed_forward(config)


def _scale_feed_forward(config: Any) -> None:
    sparse = any(getattr(config, name, None) for name in EXPERT_COUNTS)
    for name in ("intermediate_size", *EXPERT_WIDTHS):
        if getattr(config, name, None):
            setattr(config, name, min(int(getattr(config, name)), EXPERT_WIDTH if sparse else HIDDEN))
    for name in EXPERT_COUNTS:
        if getattr(config, name, None):
            setattr(config, name, min(int(getattr(config, name)), EXPERTS))
    for name in EXPERT_GROUPS:
        if getattr(config, name, None):
            setattr(config, name, 1)
    if getattr(config, "num_experts_per_tok", None):
        config.num_experts_per_tok = min(int(config.num_experts_per_tok), EXPERTS_PER_TOKEN)


def _keep_layers(config: Any, layers: list[int]) -> None:
    count = int(config.num_hidden_layers)
    for name, value in _per_layer(config, count):
        setattr(config, name, [value[index] for index in layers])
    for name, value in _layer_numbers(config):
        setattr(config, name, [new for new, old in enumerate(layers) if old in value])
    for name in DENSE_LAYERS:
        if getattr(config, name, None):
            setattr(config, name, sum(index < getattr(config, name) for index in layers))
    if getattr(config, "max_window_layers", None):
        config.max_window_layers = sum(index < config.max_window_layers for index in layers)
    config.num_hidden_layers = len(layers)


def _special_layers(config: Any, count: int) -> set[int]:
    """Layers whose kind is told by a number: the first dense and the first sparse one of a mixture of experts."""
    dense = max(int(getattr(config, name, None) or 0) for name in DENSE_LAYERS)
    step = int(getattr(config, "decoder_sparse_step", None) or 1)
    special = {0, dense} if dense else set()
    if step > 1:
        special |= {0, step - 1}
    for _, named in _layer_numbers(config):
        special |= {named[0], next((n for n in range(count) if n not in named), 0)}
    return {index for index in special if index < count}


def _per_layer(config: Any, count: int) -> Iterable[tuple[str, list[Any]]]:
    """The config's lists with one entry per layer (`layer_types`, `no_rope_layers`, …)."""
    for name, value in sorted(vars(config).items()):
        if isinstance(value, list) and len(value) == count and not _is_numbers(value) and name not in SPECIAL_TOKENS:
            yield name, value


def _layer_numbers(config: Any) -> Iterable[tuple[str, list[int]]]:
    """The config's lists of layer numbers (`mlp_only_layers`, `moe_layers`, `full_attn_idxs`, …)."""
    for name, value in sorted(vars(config).items()):
        if isinstance(value, list) and value and _is_numbers(value) and name.endswith(("_layers", "_idxs")):
            yield name, value


def _is_numbers(value: list[Any]) -> bool:
    """Whether the list is layer numbers in ascending order, and not one entry per layer."""
    return all(isinstance(one, int) for one in value) and all(a < b for a, b in itertools.pairwise(value))


def _cut_vocabulary(config: Any) -> None:
    config.vocab_size = min(int(config.vocab_size), VOCABULARY)
    for number, name in enumerate(SPECIAL_TOKENS):
        if getattr(config, name, None) is not None:
            setattr(config, name, number)

"""How a model's decoder is called in a trace. Text models need nothing but this default; encoders ask for more.

Adapters of `towers/` return subclasses: several position axes, marker columns behind the embedding, further inputs.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import torch
from transformers import PretrainedConfig

from pipeline.graph.ir import Value
from pipeline.graph.moves import cut, reshape
from pipeline.graph.towers import families
from pipeline.graph.tracer import Options, Tracer


@dataclass(frozen=True)
class Inputs:
    """The graph's inputs in one trace.

    ids: int64 [1, L], which only the embedding may read. embedded: float32 [1, L, hidden]. markers: float32 [L, n], or
    None. positions: int64 [axes, L]. extra: those that the decoder declared. layers: number of decoder layers.
    """

    tracer: Tracer
    ids: torch.Tensor
    embedded: torch.Tensor
    markers: torch.Tensor | None
    positions: torch.Tensor
    layers: int
    extra: Mapping[str, torch.Tensor] = field(default_factory=dict)


class Decoder:
    """axes: rows of position ids that the engine feeds (3 = is_mrope). markers: columns behind the embedding's, zero in
    the token table, by which an encoder tells the decoder what a row is. flags: what stands in all of these columns of
    the token table instead, by token."""

    axes = 1
    markers = 0
    flags: Mapping[int, float] = MappingProxyType({})

    def extra(self, tracer: Tracer, length: int, hidden: int) -> dict[str, torch.Tensor]:
        """Declares further graph inputs."""
        return {}

    def logits(self, model: Any, given: Inputs) -> torch.Tensor:
        """float32 [1, L, vocabulary]."""
        result: torch.Tensor = model(input_ids=given.ids, position_ids=given.positions, use_cache=False).logits
        return result


def split_rows(tracer: Tracer, rows: Value, hidden: int, markers: int) -> tuple[torch.Tensor, torch.Tensor | None]:
    """(embeddings [1, L, hidden], markers [L, n] or None) of the engine's rows [L, 1, hidden + n]."""
    length = rows.shape[0]
    embedded = tracer.tensor(reshape(tracer, cut(tracer, rows, 2, 0, hidden), (1, length, hidden)))
    if not markers:
        return embedded, None
    behind = cut(tracer, rows, 2, hidden, hidden + markers)
    return embedded, tracer.tensor(reshape(tracer, behind, (length, markers)))


def decoder_of(config: PretrainedConfig, options: Options) -> Decoder:
    """How the config's decoder is called: by its adapter, whether its encoders are built or not."""
    for module in families.adapters(config.model_type).values():
        found: Decoder = importlib.import_module(module).decoder(config, options)
        return found
    return Decoder()

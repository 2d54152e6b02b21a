"""Lookups of position tables inside an encoder, where the positions are known before any picture is.

transformers repeats such positions for every picture of a batch; they are looked up once and broadcast instead, for a
constant of the traced batch would not fit another.
"""

from __future__ import annotations

from typing import Any

import torch

from pipeline.checkpoint.small import SMALL_ELEMENTS
from pipeline.graph.ir import CUSTOM_DOMAIN, Table
from pipeline.graph.tracer import Tracer


def embedding(tracer: Tracer, ids: torch.Tensor, weight: torch.Tensor, *_: Any, **__: Any) -> Any:
    """The rule for torch's embedding: int [..., n] → float32 [..., n, columns], leading axes that repeat being 1."""
    name = tracer.parameter_name(weight)
    if name is None:
        return NotImplemented
    if not tracer.is_symbolic(ids):
        ids = _once(ids)
        if weight.numel() <= SMALL_ELEMENTS:
            return tracer.real(weight)[ids]
    rows, columns = (int(size) for size in weight.shape)
    table = Table(name.removesuffix(".weight"), rows, columns, name)
    tracer.graph.tables[table.name] = table
    value = tracer.emit(
        "Table",
        [tracer.value(ids, "int32")],
        (*ids.shape, columns),
        domain=CUSTOM_DOMAIN,
        name=table.name,
        rows=rows,
        columns=columns,
    )
    return tracer.tensor(value)


def _once(ids: torch.Tensor) -> torch.Tensor:
    return ids[:1] if ids.dim() > 1 and bool((ids == ids[:1]).all()) else ids

"""cos and sin of the positions, as two small tables per RoPE and the addition theorem.

Position × frequency never enters the graph: half-precision backends cannot hold positions above 2,048. A position is
split into high · STEP + low; cos and sin of both come out of tables, computed here in float64.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pipeline.errors import UserError
from pipeline.graph.ir import Value, constant
from pipeline.graph.moves import reshape
from pipeline.graph.rotary_axes import recomposed
from pipeline.graph.tracer import Tracer, active

STEP = 256


class RotaryTable(torch.nn.Module):
    """Stands for a model's rotary embedding module, whose forward(x, position_ids[, layer_type]) gives (cos, sin).

    original: the module, with real buffers. positions: number of positions that the tables must cover.
    """

    def __init__(self, original: torch.nn.Module, positions: int) -> None:
        super().__init__()
        object.__setattr__(self, "original", original)
        self.positions = positions
        self._done: dict[tuple[Any, ...], tuple[torch.Tensor, torch.Tensor]] = {}

    def __getattr__(self, name: str) -> Any:
        """What models ask of their rotary module beside its tables (its config, say) is the original's to answer."""
        return getattr(self.__dict__["original"], name)

    def forward(self, x: torch.Tensor, position_ids: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        """cos and sin [1, sequence, dim] in the layout of the original module's."""
        key = (id(position_ids), args, tuple(sorted(kwargs.items())))
        if key not in self._done:
            kind = kwargs.get("layer_type", args[0] if args else None)
            self._done[key] = self._emit(active(), position_ids, kind, args, kwargs)
        return self._done[key]

    def _emit(self, tracer: Tracer, position_ids: torch.Tensor, kind: str | None, args: Any, kwargs: Any) -> Any:
        original: Any = self.original
        prefix = f"{kind}_" if kind and hasattr(original, f"{kind}_inv_freq") else ""
        frequencies = getattr(original, f"{prefix}inv_freq").double().numpy()
        scale = float(getattr(original, f"{prefix}attention_scaling", 1.0))
        _note_limit(tracer, original)
        if hasattr(original, "recomposition_frequencies"):
            return recomposed(
                tracer, original, position_ids, lambda flat: angles(tracer, flat, frequencies, scale, self.positions)
            )
        cosine, sine = angles(tracer, tracer.value(position_ids), frequencies, scale, self.positions)
        with tracer.paused():
            sample = original(torch.zeros(1, 1, 1), torch.tensor([[1]]), *args, **kwargs)
        pair = _join(tracer, cosine, "half"), _join(tracer, sine, "half")
        if isinstance(sample, torch.Tensor) and sample.is_complex():
            # cos + i·sin, which no graph can hold: only a RoPE function that takes it is ever traced.
            phasor = Value(cosine.shape)
            tracer.rotary_pairs[phasor] = pair
            return tracer.tensor(phasor)
        layout = _layout(sample[0].flatten().double().numpy(), np.cos(frequencies) * scale)
        full = pair if layout == "half" else tuple(_join(tracer, value, layout) for value in (cosine, sine))
        tracer.rotary_pairs.update(dict.fromkeys(full, pair))
        return tracer.tensor(full[0]), tracer.tensor(full[1])


def _note_limit(tracer: Tracer, original: Any) -> None:
    """Some RoPE types change their frequencies once a sequence is longer than a limit; tables hold those below it."""
    kinds = getattr(original, "rope_type", "")
    listed = set(kinds.values()) if isinstance(kinds, dict) else {kinds}
    limit = getattr(original, "original_max_seq_len", 0)
    if isinstance(limit, dict):
        limit = min(limit.values())
    changing = sorted(listed & {"dynamic", "longrope"})
    if changing:
        limit = getattr(original.config, "original_max_position_embeddings", None) or limit
        parameters = getattr(original.config, "rope_parameters", None) or {}
        limit = int(parameters.get("original_max_position_embeddings", limit))
        tracer.position_limit = min(limit, tracer.position_limit or limit)
        tracer.note(f"{changing[0]} RoPE as it is for sequences of up to {limit} tokens")


def angles(
    tracer: Tracer, positions: Value, frequencies: npt.NDArray[np.float64], scale: float, count: int
) -> tuple[Value, Value]:
    """cos and sin of position · frequency, times scale, each [1, sequence, len(frequencies)]."""
    length, width = int(positions.shape[-1]), len(frequencies)  # type: ignore[arg-type]
    step = constant(STEP, "int32")
    flat = reshape(tracer, positions, (length,))
    high = tracer.emit("Div", [flat, step], (length,), "int32")
    low = tracer.emit("Sub", [flat, tracer.emit("Mul", [high, step], (length,), "int32")], (length,), "int32")
    tables = (
        _table(np.arange(-(-count // STEP) + 1) * STEP, frequencies, scale),
        _table(np.arange(STEP), frequencies, 1),
    )
    (ch, sh), (cl, sl) = (
        [tracer.emit("Gather", [constant(table), rows], (length, width), axis=0) for table in pair]
        for pair, rows in zip(tables, (high, low), strict=True)
    )

    def combine(op: str, a: Value, b: Value, c: Value, d: Value) -> Value:
        products = [tracer.emit("Mul", list(pair), (length, width)) for pair in ((a, b), (c, d))]
        return reshape(tracer, tracer.emit(op, products, (length, width)), (1, length, width))

    return combine("Sub", ch, cl, sh, sl), combine("Add", sh, cl, ch, sl)


def _table(
    positions: npt.NDArray[np.int64], frequencies: npt.NDArray[np.float64], scale: float
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    # transformers' own frequencies are float32 numbers; their products with positions are taken exactly here.
    angles = np.mod(positions[:, None] * frequencies[None, :], 2 * math.pi)
    return (np.cos(angles) * scale).astype(np.float32), (np.sin(angles) * scale).astype(np.float32)


def _layout(sample: npt.NDArray[np.float64], cosines: npt.NDArray[np.float64]) -> str:
    """How the module lays out its angles: "half" (a b a b), "interleaved" (a a b b) or "single" (a b)."""
    candidates = {"single": cosines, "half": np.tile(cosines, 2), "interleaved": np.repeat(cosines, 2)}
    for name, expected in candidates.items():
        if sample.shape == expected.shape and np.allclose(sample, expected, atol=1e-5):
            return name
    raise UserError(
        "the model's rotary embedding is not cos(position · inv_freq) in a known layout, so it cannot be tabulated"
    )


def _join(tracer: Tracer, value: Value, layout: str) -> Value:
    _, length, width = (int(size) for size in value.shape)  # type: ignore[arg-type]
    if layout == "single":
        return value
    if layout == "half":
        return tracer.emit("Concat", [value, value], (1, length, 2 * width), axis=2)
    column = reshape(tracer, value, (1, length, width, 1))
    pairs = tracer.emit("Concat", [column, column], (1, length, width, 2), axis=3)
    return reshape(tracer, pairs, (1, length, 2 * width))

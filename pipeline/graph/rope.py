"""Rotary position embedding of q and k: recognised by trying the model's own function out, then one placeholder."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch

from pipeline.errors import UserError
from pipeline.graph.ir import CUSTOM_DOMAIN, Value
from pipeline.graph.moves import transpose
from pipeline.graph.tracer import Tracer, active

FUNCTIONS = ("apply_rotary_pos_emb", "apply_rotary_pos_emb_interleave", "apply_rotary_emb")
Rope = Callable[..., Any]


@contextmanager
def patched_rope(modules: Iterable[str]) -> Iterator[None]:
    """While open, the RoPE functions of the named modelling modules emit placeholders."""
    patched: list[tuple[Any, str, Rope]] = []
    try:
        for module in (sys.modules[name] for name in modules):
            for name in FUNCTIONS:
                original = getattr(module, name, None)
                if original is not None:
                    patched.append((module, name, original))
                    setattr(module, name, _replacement(original))
        yield
    finally:
        for module, name, original in patched:
            setattr(module, name, original)


def _replacement(original: Rope) -> Rope:
    probe = cache(lambda size, rotary, layout: _probe(original, size, rotary, layout))

    def rope(q: torch.Tensor, k: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        """original(q, k, cos, sin, …) or original(q, k, phasor, …)."""
        tracer = active()
        pair, layout = _tables(tracer, args)
        if pair is not None and q.dim() == k.dim() == 4 and q.shape[-1] == k.shape[-1] and tracer.options.fuse_rope:
            with tracer.paused():
                rotation = probe(int(q.shape[-1]), _width(pair[0]), layout)
            if rotation is not None:
                return _emit(tracer, q, k, *pair, rotation)
        if layout == "phasor":
            raise UserError("the model's RoPE works on complex numbers in a way that the exporter does not recognise")
        tracer.note("RoPE left as plain operations")
        return original(q, k, *args, **kwargs)

    return rope


def _tables(tracer: Tracer, args: Sequence[Any]) -> tuple[tuple[Value, Value] | None, str]:
    """cos and sin in halves, and how the function is given them: "phasor", "single" or "full"."""
    tensors = [item for item in args[:2] if isinstance(item, torch.Tensor) and tracer.is_symbolic(item)]
    pairs = [tracer.rotary_pairs.get(tracer.value(item)) for item in tensors]
    if not pairs or pairs[0] is None or any(pair is not pairs[0] for pair in pairs):
        return None, ""
    if len(pairs) == 1:
        return pairs[0], "phasor"
    return pairs[0], "full" if tensors[0].shape[-1] == _width(pairs[0][0]) else "single"


def _width(value: Value) -> int:
    size = value.shape[-1]
    assert isinstance(size, int)
    return size


def _probe(original: Rope, size: int, rotary: int, layout: str) -> str | None:
    """Which rotation the function does on heads of `size` of which `rotary` are turned; None if it is none known."""
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(1, heads, 5, size, generator=generator) for heads in (4, 2))
    angles = torch.randn(1, 5, rotary // 2, generator=generator)
    for tables in _candidates(angles, layout):
        try:
            turned = original(q, k, *tables)
        except (RuntimeError, TypeError, ValueError, IndexError):
            continue  # the function wants other shapes: it is not recognised, and is traced as it is
        for rotation in ("half", "interleaved", "interleaved_to_half"):
            if all(_close(got, _rotate(x, angles, rotation)) for got, x in zip(turned, (q, k), strict=True)):
                return rotation
    return None


def _candidates(angles: torch.Tensor, layout: str) -> list[tuple[torch.Tensor, ...]]:
    if layout == "phasor":
        return [(torch.polar(torch.ones_like(angles), angles),)]
    if layout == "single":
        return [(angles.cos(), angles.sin())]
    doubled = torch.cat((angles, angles), -1), angles.repeat_interleave(2, -1)
    return [(item.cos(), item.sin()) for item in doubled]


def _close(first: torch.Tensor, second: torch.Tensor) -> bool:
    return first.shape == second.shape and bool((first - second).abs().max() < 1e-5)


def _rotate(x: torch.Tensor, angles: torch.Tensor, rotation: str) -> torch.Tensor:
    """The rotation written down independently. x [1, heads, sequence, size], angles [1, sequence, rotary / 2]."""
    count = angles.shape[-1]
    cos, sin = angles.cos().unsqueeze(1), angles.sin().unsqueeze(1)
    turned, rest = x[..., : 2 * count], x[..., 2 * count :]
    paired = rotation != "half"
    first, second = (turned[..., 0::2], turned[..., 1::2]) if paired else (turned[..., :count], turned[..., count:])
    a, b = first * cos - second * sin, second * cos + first * sin
    result = torch.stack((a, b), -1).flatten(-2) if rotation == "interleaved" else torch.cat((a, b), -1)
    return torch.cat((result, rest), -1)


def _emit(tracer: Tracer, q: torch.Tensor, k: torch.Tensor, cos: Value, sin: Value, rotation: str) -> Any:
    """The placeholder, on [1, sequence, heads, size]; q and k come and go as [1, heads, sequence, size].

    The engine turns halves. Interleaved q and k are first de-interleaved alike: their products stay what they were, so
    nothing has to be put back. A later pass moves that into the rows of the weights.
    """
    rotary, (size, heads, kv_heads) = int(cos.shape[-1]), (int(n) for n in (q.shape[3], q.shape[1], k.shape[1]))  # type: ignore[arg-type]
    inputs = [transpose(tracer, tracer.value(x), (0, 2, 1, 3)) for x in (q, k)]
    if rotation != "half":
        inputs = [deinterleave(tracer, value, rotary) for value in inputs]
    outputs = [Value(value.shape) for value in inputs]
    number = sum(node.op == "FusedRoPE" for node in tracer.graph.nodes)
    sizes = {"rope_cut_head_dim": rotary, "num_head": heads, "kv_num_head": kv_heads, "head_dim": size}
    tracer.emit_many("FusedRoPE", [*inputs, cos, sin], outputs, CUSTOM_DOMAIN, name=f"/rope.{number}", **sizes)
    return tuple(tracer.tensor(transpose(tracer, value, (0, 2, 1, 3))) for value in outputs)


def deinterleave(tracer: Tracer, value: Value, rotary: int) -> Value:
    """[…, 2i] and […, 2i + 1] of the first `rotary` elements of each head to […, i] and […, rotary / 2 + i]."""
    return tracer.emit("Deinterleave", [value], _plain(value), rotary=rotary)


def _plain(value: Value) -> tuple[int, ...]:
    return tuple(size for size in value.shape if isinstance(size, int))

"""Attention: the function that transformers calls in place of its own, and scaled_dot_product_attention's rule."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers.masking_utils import AttentionMaskInterface

from pipeline.errors import UserError
from pipeline.graph.ir import CUSTOM_DOMAIN, Graph, Value
from pipeline.graph.moves import cut, pad, reshape, transpose
from pipeline.graph.support import softcap_refusal
from pipeline.graph.tracer import Tracer, active

IMPLEMENTATION = "mnn"
SOFTCAP_NOTE = "attention softcap left out"


def attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' AttentionInterface: query [1, heads, sequence, head_dim] → [1, sequence, heads, v's head_dim].

    Raises UserError for what the engine's attention op has no place for.
    """
    tracer = active()
    if attention_mask is not None:
        raise UserError("the model gives its attention a mask of its own, which the engine's attention op cannot take")
    if getattr(module, "is_causal", True) is False:
        raise UserError("the model's attention is not causal; the engine's attention op is")
    if softcap is not None:
        _softcap(tracer, softcap)
    layer = getattr(module, "layer_idx", None)
    if layer is None:
        raise UserError(f"{type(module).__name__} does not say which layer it is (layer_idx)")
    sinks = None if s_aux is None else tracer.value(s_aux)
    tensors = tracer.value(query), tracer.value(key), tracer.value(value)
    return tracer.tensor(emit_attention(tracer, *tensors, layer, scaling, sliding_window, sinks)), None


def emit_attention(
    tracer: Tracer,
    query: Value,
    key: Value,
    value: Value,
    layer: int,
    scaling: float | None = None,
    sliding_window: int | None = None,
    sinks: Value | None = None,
    kv_cache: int = 1,
) -> Value:
    """The placeholder. Inputs [1, heads, sequence, head_dim]; result [1, sequence, heads, v's head_dim].

    The engine scales by 1/√head_dim, so any other factor goes into q. A value head that is narrower than the query's
    (latent attention) is widened by zeros, which come out of the softmax's average as zeros and are cut off again.
    """
    _, heads, length, size = _sizes(query)
    width = _sizes(value)[3]
    factor = 1.0 if scaling is None else scaling * math.sqrt(size)
    inputs = [transpose(tracer, item, (0, 2, 1, 3)) for item in (query, key, _widened(tracer, value, size))]
    if abs(factor - 1) > 1e-6:
        inputs[0] = tracer.emit("Mul", [inputs[0], tracer.value(factor)], _sizes(inputs[0]))
    inputs.append(tracer.graph.inputs["attention_mask"])
    if sinks is not None:
        inputs.append(sinks)
    result = tracer.emit(
        "FusedAttention",
        inputs,
        (1, length, heads * size),
        domain=CUSTOM_DOMAIN,
        name=f"/layers.{layer}/attention",
        layer_index=layer,
        kv_cache=kv_cache,
        output_dim=heads * size,
        sliding_window=sliding_window or 0,
    )
    return cut(tracer, reshape(tracer, result, (1, length, heads, size)), 3, 0, width)


def _widened(tracer: Tracer, value: Value, size: int) -> Value:
    shape = _sizes(value)
    if shape[3] == size:
        return value
    if shape[3] > size:
        raise UserError("the model's value heads are wider than its query heads, which the engine cannot run")
    return pad(tracer, value, (0, 0, 0, 0), (0, 0, 0, size - shape[3]))


def _softcap(tracer: Tracer, softcap: float) -> None:
    note = f"{SOFTCAP_NOTE} ({softcap:g})"
    if not tracer.options.allow_approximate:
        raise softcap_refusal(softcap)
    if note not in tracer.approximations:
        tracer.approximations.append(note)


def _sizes(value: Value) -> tuple[int, ...]:
    return tuple(size for size in value.shape if isinstance(size, int))


def scaled_dot_product_attention(
    tracer: Tracer,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    """The rule for torch's own attention, in models that call it without transformers' interface."""
    if not tracer.is_symbolic(query):
        return NotImplemented
    if attn_mask is not None or not is_causal:
        raise UserError("the model gives its attention a mask of its own, which the engine's attention op cannot take")
    layer = sum(node.op == "FusedAttention" for node in tracer.graph.nodes)
    tensors = tracer.value(query), tracer.value(key), tracer.value(value)
    result = emit_attention(tracer, *tensors, layer, scale)
    return tracer.tensor(transpose(tracer, result, (0, 2, 1, 3)))


def check_windows(config: Any, graph: Graph) -> None:
    """Raises UserError if the config's sliding layers are not those whose attention was told of a window.

    transformers may put a window into the mask alone; the trace has no masks, and such a layer would see everything.
    """
    kinds = getattr(config, "layer_types", None) or []
    window = getattr(config, "sliding_window", None)
    if any("chunk" in kind for kind in kinds):
        raise UserError("the model attends within chunks, for which the engine has no mask")
    everywhere = config.num_hidden_layers if getattr(config, "use_sliding_window", True) else 0
    wanted = (kinds.count("sliding_attention") if kinds else everywhere) if window else 0
    found = sum(node.op == "FusedAttention" and bool(node.attributes["sliding_window"]) for node in graph.nodes)
    if wanted != found:
        raise UserError(
            f"config.json has {wanted} layers with a sliding window, but {found} of the model's attentions were told "
            "of one, so the graph cannot know which layers slide"
        )


@contextmanager
def without_masks() -> Iterator[None]:
    """While open, transformers builds no mask for torch's own attention, as it builds none for the placeholder's."""
    masks = AttentionMaskInterface._global_mapping
    builder = masks.pop("sdpa")
    try:
        yield
    finally:
        masks["sdpa"] = builder


def layer_of(name: str) -> int | None:
    """The number of the layer in a module's or parameter's name: the first number between dots."""
    found = re.search(r"(?:^|\.)(\d+)(?:\.|$)", name)
    return int(found[1]) if found else None

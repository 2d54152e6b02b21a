"""What the attention placeholder takes, and what it refuses rather than leave out."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from transformers.masking_utils import AttentionMaskInterface

from pipeline.errors import UserError
from pipeline.graph.attention import (
    attention,
    check_windows,
    layer_of,
    scaled_dot_product_attention,
    without_masks,
)
from pipeline.graph.ir import Graph, Node, Value
from pipeline.graph.tracer import Options, Tracer
from tests.graph.evaluate import no_values

LENGTH = 5


def _tracer(allow_approximate: bool = False) -> Tracer:
    rules = {F.scaled_dot_product_attention: scaled_dot_product_attention}
    tracer = Tracer({}, rules, {}, no_values, Options(allow_approximate=allow_approximate))
    tracer.new_input("attention_mask", (1, 1, LENGTH, LENGTH), torch.float32)
    return tracer


def _heads(tracer: Tracer, heads: int = 4, size: int = 16) -> torch.Tensor:
    return tracer.new_input(f"x{len(tracer.graph.inputs)}", (1, heads, LENGTH, size), torch.float32)


def _attend(tracer: Tracer, mask: Any = None, layer: Any = 3, value_size: int = 16, **settings: Any) -> torch.Tensor:
    module = torch.nn.Module()
    module.is_causal = settings.pop("is_causal", True)
    if layer is not None:
        module.layer_idx = layer
    q, k, v = _heads(tracer), _heads(tracer, 2), _heads(tracer, 2, value_size)
    with tracer:
        return attention(module, q, k, v, mask, **settings)[0]


def _node(tracer: Tracer) -> Node:
    return next(node for node in tracer.graph.nodes if node.op == "FusedAttention")


def test_heads_go_behind_the_sequence() -> None:
    tracer = _tracer()
    assert _attend(tracer, scaling=0.25).shape == (1, LENGTH, 4, 16)
    node = _node(tracer)
    assert [value.shape for value in node.inputs[:3]] == [(1, LENGTH, 4, 16), (1, LENGTH, 2, 16), (1, LENGTH, 2, 16)]
    assert (node.attributes["layer_index"], node.output.shape) == (3, (1, LENGTH, 64))
    assert "Mul" not in [node.op for node in tracer.graph.nodes], "0.25 is 1/√16, which the engine applies"


def test_another_scale_goes_into_q() -> None:
    tracer = _tracer()
    _attend(tracer, scaling=0.5)
    (scale,) = [node for node in tracer.graph.nodes if node.op == "Mul"]
    assert scale.inputs[1].data == 2
    assert scale.output is _node(tracer).inputs[0]


def test_narrow_values_are_widened_and_cut() -> None:
    tracer = _tracer()
    assert _attend(tracer, value_size=12).shape == (1, LENGTH, 4, 12)
    assert _node(tracer).inputs[2].shape == (1, LENGTH, 2, 16)


def test_sinks_are_a_fifth_input() -> None:
    tracer = _tracer()
    _attend(tracer, s_aux=torch.arange(4.0))
    data = _node(tracer).inputs[4].data
    assert data is not None
    assert data.tolist() == [0, 1, 2, 3]


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a mask": ({"mask": torch.zeros(1)}, "mask of its own"),
    "both directions": ({"is_causal": False}, "not causal"),
    "a softcap": ({"softcap": 50.0}, "softcap 50"),
    "no layer": ({"layer": None}, "which layer it is"),
    "wide values": ({"value_size": 32}, "wider than its query heads"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str) -> None:
    settings, reason = REFUSED[case]
    with pytest.raises(UserError, match=reason):
        _attend(_tracer(), **settings)


def test_a_softcap_with_consent_is_listed_once() -> None:
    tracer = _tracer(allow_approximate=True)
    _attend(tracer, softcap=50.0)
    _attend(tracer, softcap=50.0)
    assert tracer.approximations == ["attention softcap left out (50)"]


def test_torchs_own_attention() -> None:
    tracer = _tracer()
    q, k, v = _heads(tracer), _heads(tracer, 2), _heads(tracer, 2)
    with tracer:
        first = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        F.scaled_dot_product_attention(first, k, v, is_causal=True)
    assert first.shape == q.shape
    layers = [node.attributes["layer_index"] for node in tracer.graph.nodes if node.op == "FusedAttention"]
    assert layers == [0, 1]


@pytest.mark.parametrize("settings", [{"is_causal": False}, {"attn_mask": torch.zeros(LENGTH, LENGTH)}])
def test_torchs_own_attention_must_be_causal(settings: dict[str, Any]) -> None:
    tracer = _tracer()
    q = _heads(tracer)
    with tracer, pytest.raises(UserError, match="mask of its own"):
        F.scaled_dot_product_attention(q, q, q, **settings)


def _told(*windows: int) -> Graph:
    nodes = [Node("FusedAttention", [], [Value(())], {"sliding_window": window}) for window in windows]
    return Graph(nodes)


def _config(layers: int, **settings: Any) -> Any:
    return SimpleNamespace(num_hidden_layers=layers, **settings)


def test_windows_that_agree() -> None:
    check_windows(_config(2), _told(0, 0))
    check_windows(_config(2, sliding_window=16), _told(16, 16))
    check_windows(_config(2, sliding_window=16, use_sliding_window=False), _told(0, 0))
    kinds = ["sliding_attention", "full_attention"]
    check_windows(_config(2, sliding_window=16, layer_types=kinds), _told(16, 0))
    check_windows(_config(2, sliding_window=None, layer_types=kinds), _told(0, 0))


@pytest.mark.parametrize("told", [(0, 0), (16, 16)])
def test_windows_that_differ(told: tuple[int, ...]) -> None:
    kinds = ["sliding_attention", "full_attention"]
    with pytest.raises(UserError, match="1 layers with a sliding window"):
        check_windows(_config(2, sliding_window=16, layer_types=kinds), _told(*told))


def test_chunks_are_refused() -> None:
    with pytest.raises(UserError, match="within chunks"):
        check_windows(_config(1, layer_types=["chunked_attention"]), _told(0))


def test_masks_come_back() -> None:
    with pytest.raises(ZeroDivisionError), without_masks():
        assert "sdpa" not in AttentionMaskInterface._global_mapping
        raise ZeroDivisionError
    assert "sdpa" in AttentionMaskInterface._global_mapping


@pytest.mark.parametrize(
    "name, layer",
    [("model.layers.12.mlp.experts.3.down_proj", 12), ("transformer.h.0.attn", 0), ("lm_head", None)],
)
def test_layer_numbers(name: str, layer: int | None) -> None:
    assert layer_of(name) == layer

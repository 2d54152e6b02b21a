"""The delta net's hook: it believes no model that takes its columns in another order than the engine's op does."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch
from transformers.models.qwen3_next import modeling_qwen3_next as modelling

from pipeline.errors import UserError
from pipeline.graph.hooks import HOOKS, attach, gated_delta_net, short_conv
from pipeline.graph.lowering import LOWERINGS
from pipeline.graph.tracer import Options, Tracer

KEYS, VALUES, LENGTH = 2 * 4, 2 * 8, 5
COLUMNS = 2 * KEYS + VALUES
KERNEL = torch.randn(COLUMNS, 1, 4)

activation: str | None = "silu"
bias: torch.Tensor | None = None


def causal_conv1d_fn(*_: Any, **__: Any) -> torch.Tensor:
    raise AssertionError("the hook puts its own function here")


torch_chunk_gated_delta_rule = causal_conv1d_fn


class Net(torch.nn.Module):
    """A delta net of two heads. order: which pieces of the convolution it takes for q, k and v."""

    layer_idx: int | None = 3

    def __init__(self, order: tuple[int, int, int] = (0, 1, 2)) -> None:
        super().__init__()
        self.order = order

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        mixed = causal_conv1d_fn(hidden_states.transpose(1, 2), KERNEL.squeeze(1), bias, activation=activation)
        pieces = torch.split(mixed.transpose(1, 2), [KEYS, KEYS, VALUES], dim=-1)
        q, k, v = (pieces[place].reshape(1, LENGTH, 2, -1) for place in self.order)
        gates = hidden_states[..., :2]
        out, _ = torch_chunk_gated_delta_rule(q, k, v, g=-gates, beta=gates, use_qk_l2norm_in_kernel=True)
        return out.reshape(1, LENGTH, -1)


def traced(net: Net, **arguments: Any) -> Tracer:
    def no_values(name: str) -> torch.Tensor:
        raise KeyError(name)

    tracer = Tracer(LOWERINGS, {}, {}, no_values, Options())
    hidden = tracer.new_input("x", (1, LENGTH, COLUMNS), torch.float32)
    with tracer:
        gated_delta_net.forward(net, hidden, **arguments)
    return tracer


def test_the_op_is_given_the_columns_and_their_kernel() -> None:
    (node,) = [node for node in traced(Net()).graph.nodes if node.op == "LinearAttention"]
    assert node.attributes == {
        "name": "/layers.3/recurrence", "attn_type": "gated_delta_rule", "num_k_heads": 2, "num_v_heads": 2,
        "head_k_dim": 4, "head_v_dim": 8, "use_qk_l2norm": 1,
    }  # fmt: skip
    columns, gate, beta, kernel = node.inputs
    assert columns.shape == (1, COLUMNS, LENGTH)
    assert (gate.shape, beta.shape, node.output.shape) == ((1, LENGTH, 2), (1, LENGTH, 2), (1, LENGTH, 2, 8))
    assert kernel.data is not None and torch.equal(torch.from_numpy(kernel.data), KERNEL)


def test_another_order_is_refused() -> None:
    with pytest.raises(UserError, match="does not take q, k and v one after the other"):
        traced(Net((1, 0, 2)))


@pytest.mark.parametrize(("name", "value"), [("activation", None), ("activation", "gelu"), ("bias", torch.ones(1))])
def test_another_convolution_is_refused(monkeypatch: pytest.MonkeyPatch, name: str, value: Any) -> None:
    monkeypatch.setattr(f"{__name__}.{name}", value)
    with pytest.raises(UserError, match="a convolution with a bias or with"):
        traced(Net())


def test_a_mask_is_refused() -> None:
    with pytest.raises(UserError, match="is given a mask"):
        traced(Net(), attention_mask=torch.ones(1, LENGTH))


def test_a_layer_without_a_number_is_refused() -> None:
    net = Net()
    net.layer_idx = None
    with pytest.raises(UserError, match="which layer it is"):
        traced(net)


def test_a_version_of_transformers_with_other_functions_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(f"{__name__}.causal_conv1d_fn")
    with pytest.raises(UserError, match="has no causal_conv1d_fn"):
        traced(Net())


def test_the_models_own_functions_are_back_afterwards() -> None:
    mine = causal_conv1d_fn
    with pytest.raises(UserError):
        traced(Net((1, 0, 2)))
    assert causal_conv1d_fn is torch_chunk_gated_delta_rule is mine


@pytest.mark.parametrize("name", sorted(HOOKS))
def test_every_hooked_class_is_one_of_transformers(name: str) -> None:
    homes = {"Qwen3Next": "qwen3_next", "Qwen3_5Moe": "qwen3_5_moe", "Qwen3_5": "qwen3_5", "OlmoHybrid": "olmo_hybrid",
             "Lfm2Moe": "lfm2_moe", "Lfm2": "lfm2"}  # fmt: skip
    family = next(home for prefix, home in homes.items() if name.startswith(prefix))
    assert hasattr(importlib.import_module(f"transformers.models.{family}.modeling_{family}"), name)


def test_hooks_are_by_class() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(1, 1), modelling.Qwen3NextRMSNormGated(4))
    attach(model)
    assert not any("forward" in vars(module) for module in model.modules())
    assert HOOKS["Lfm2ShortConv"] is short_conv.forward

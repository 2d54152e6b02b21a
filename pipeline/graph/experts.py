"""Mixtures of experts: the function that transformers calls in place of its own loop over experts."""

from __future__ import annotations

from typing import Any

import torch

from pipeline.errors import UserError
from pipeline.graph.attention import layer_of
from pipeline.graph.ir import CUSTOM_DOMAIN, Experts, Linear, Part
from pipeline.graph.linear import fake_linear
from pipeline.graph.tracer import Tracer, active


def experts(
    module: Any, hidden_states: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor
) -> torch.Tensor:
    """transformers' ExpertsInterface: hidden [rows, hidden], chosen experts and weights [rows, top_k] → [rows, hidden].

    module holds the stacked matrices gate_up_proj (or up_proj) and down_proj of all experts.
    """
    tracer = active()
    name = _owner(tracer, module)
    layer = layer_of(name)
    if layer is None:
        raise UserError(f"the experts {name} are in no numbered layer")
    if getattr(module, "has_post_expert_norm", False):
        raise UserError(f"the experts {name} end in a norm, which the exporter does not express")
    found = Experts(name, _expert_graph(tracer, module), int(module.num_experts))
    tracer.graph.experts[name] = found
    inputs = [tracer.value(hidden_states), tracer.value(top_k_weights), tracer.value(top_k_index)]
    output = tracer.emit(
        "MoE",
        inputs,
        hidden_states.shape,
        domain=CUSTOM_DOMAIN,
        name=name,
        num_experts=found.count,
        top_k=int(top_k_index.shape[-1]),
        layer_id=layer,
        expert="",  # the template's name, known once all expert graphs are
    )
    return tracer.tensor(output)


def _owner(tracer: Tracer, module: Any) -> str:
    full = tracer.parameter_name(module.down_proj)
    if full is None:
        raise UserError(f"{type(module).__name__} has no down_proj, so its experts are not known to the exporter")
    return full.removesuffix(".down_proj")


def _expert_graph(tracer: Tracer, module: Any) -> Any:
    """One expert's graph, [rows, hidden] → [rows, hidden]; its linears are named as in the module."""
    inner = tracer.nested()
    first = "gate_up_proj" if module.has_gate else "up_proj"
    with inner:
        x = inner.new_input("hidden", (tracer.length, _features(module, first)[1]), torch.float32)
        raised = _product(inner, module, first, x)
        acted = module._apply_gate(raised) if module.has_gate else module.act_fn(raised)
        inner.graph.outputs["expert_out"] = inner.value(_product(inner, module, "down_proj", acted))
    return inner.graph


def _features(module: Any, name: str) -> tuple[int, int]:
    """out_features, in_features of one expert; the stack is [experts, out, in] or, transposed, [experts, in, out]."""
    first, second = (int(size) for size in getattr(module, name).shape[1:])
    return (second, first) if module.is_transposed else (first, second)


def _product(tracer: Tracer, module: Any, name: str, x: torch.Tensor) -> torch.Tensor:
    out_features, in_features = _features(module, name)
    bias = (Part(f"{name}_bias"),) if module.has_bias else None
    linear = Linear(name, out_features, in_features, (Part(name, transpose=module.is_transposed),), bias)
    return tracer.tensor(fake_linear(tracer, tracer.value(x), linear, (int(x.shape[0]), out_features)))

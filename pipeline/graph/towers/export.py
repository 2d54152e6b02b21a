"""From a checkpoint folder without weights to an encoder's graph: <kind>.onnx and its layout.json."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from transformers import PretrainedConfig
from transformers.modeling_utils import AttentionInterface

from pipeline.errors import UserError
from pipeline.graph import layout, lengths, onnx_file
from pipeline.graph.bindings import Bindings, bind, small_values
from pipeline.graph.export import owners, parameter_names, traced_errors
from pipeline.graph.ir import Graph
from pipeline.graph.linear import Head, function_rules
from pipeline.graph.model import Model, fill_buffers, instantiate, load_config, tabulate_rotary
from pipeline.graph.passes.dead import drop_dead
from pipeline.graph.passes.linear_input import drop_linear_reshapes
from pipeline.graph.passes.order import order_nodes
from pipeline.graph.passes.reshapes import join_reshapes
from pipeline.graph.towers import attention, families, frames, patches, pooling, tables
from pipeline.graph.towers.lowering import LOWERINGS
from pipeline.graph.towers.tower import Tower
from pipeline.graph.tracer import Options, Tracer

PASSES: tuple[Callable[[Graph], None], ...] = (drop_dead, join_reshapes, drop_linear_reshapes, drop_dead, order_nodes)


@dataclass(frozen=True)
class Exported:
    """What `export` leaves: the ONNX file, layout.json's content, and the content of the product's <kind>.json."""

    onnx: Path
    layout: dict[str, Any]
    preprocessing: dict[str, Any]


def export(kind: str, checkpoint: Path, out: Path, options: Options, trust_remote_code: bool = False) -> Exported:
    """Writes `out`/<kind>.onnx from the checkpoint stage's folder. UserError for what cannot be expressed."""
    torch.set_num_threads(1)
    config = load_config(checkpoint, trust_remote_code)
    families.check(config.to_dict(), {kind: True})
    adapter = families.adapters(config.model_type).get(kind)
    if adapter is None:
        raise UserError(f"config.json of this {config.model_type} names no {kind} encoder", f"use {kind}.mode=off")
    model = instantiate(config, trust_remote_code)
    listed = json.loads((checkpoint / "tensors.json").read_text(encoding="utf-8"))["tensors"]
    bindings = bind(model, {name: entry["shape"] for name, entry in listed.items()})
    values = small_values(checkpoint / "small.safetensors", bindings)
    fill_buffers(model, values)
    tower: Tower = importlib.import_module(adapter).tower(model, checkpoint, options)
    graph, tracer = trace(model, tower, values, options)
    onnx_file.write(graph, out / f"{kind}.onnx", kind)
    described = describe(config, tower, graph, tracer, bindings)
    return Exported(out / f"{kind}.onnx", described, dict(tower.preprocessing))


def trace(model: Model, tower: Tower, values: Any, options: Options) -> tuple[Graph, Tracer]:
    """The encoder's clean graph, sizes merged from two traces."""
    _use_tower_attention(model, tower)
    tabulate_rotary(model, tower.positions)
    names = parameter_names(model)
    short, long = (_trace_at(tower, names, values, options, length, owners(model)) for length in lengths.LENGTHS)
    graph = lengths.merge(short.graph, long.graph)
    for rewrite in PASSES:
        rewrite(graph)
    return graph, short


def describe(
    config: PretrainedConfig, tower: Tower, graph: Graph, tracer: Tracer, bindings: Bindings
) -> dict[str, Any]:
    """layout.json's content: what the weight file must hold, and the engine's keys."""
    linears = layout.linears(graph, bindings)
    for linear in linears:
        linear["keep"] |= linear["name"] in tower.keep
    return {
        "format": layout.FORMAT,
        "tower": tower.kind,
        "model_type": config.model_type,
        "inputs": list(graph.inputs),
        "outputs": list(graph.outputs),
        "lm_head": "",
        "tied": False,
        "linears": linears,
        "tables": layout.tables(graph, bindings),
        "engine": dict(tower.engine),
        "approximations": list(tracer.approximations),
        "notes": [*tower.notes, *tracer.notes],
    }


def _use_tower_attention(model: Model, tower: Tower) -> None:
    AttentionInterface.register(attention.IMPLEMENTATION, attention.attention)
    for root in tower.roots:
        modules = model.get_submodule(root).modules()
        for config in {id(m.config): m.config for m in modules if hasattr(m, "config")}.values():
            config._attn_implementation_internal = attention.IMPLEMENTATION


def _trace_at(
    tower: Tower, names: Any, values: Any, options: Options, length: int, classes: dict[str, type]
) -> Tracer:
    functions: dict[Any, Any] = {}
    tracer = Tracer(LOWERINGS, functions, names, values, options)
    tracer.length = length
    inputs = {one.name: tracer.new_input(one.name, one.shape(length), one.dtype) for one in tower.inputs}
    functions |= _rules(classes)
    with traced_errors(f"the {tower.kind} encoder"), tracer:
        outputs = tower.call(inputs)
    tracer.graph.outputs = {name: tracer.value(one) for name, one in zip(tower.outputs, outputs, strict=True)}
    drop_dead(tracer.graph)
    unused = [name for name, value in tracer.graph.inputs.items() if value not in tracer.graph.consumers()]
    if unused:  # the converter would drop it, and the engine then crashes on the missing name
        raise UserError(f"the {tower.kind} encoder does not use its input {', '.join(unused)}")
    return tracer


def _rules(classes: dict[str, type]) -> dict[Any, Any]:
    nothing = torch.empty(0)
    head = Head(-1, -1, "", nothing, nothing, nothing)
    rules: dict[Any, Any] = function_rules(head, classes)
    images = {F.conv2d: patches.convolution, F.conv3d: patches.convolution}
    return rules | images | frames.RULES | pooling.RULES | {F.embedding: tables.embedding}

"""From a checkpoint folder without weights to the graph: llm.onnx, expert templates and layout.json."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PretrainedConfig

from pipeline.errors import UserError
from pipeline.graph import layout, lengths, onnx_file
from pipeline.graph.attention import check_windows, without_masks
from pipeline.graph.bindings import Bindings, bind, small_values
from pipeline.graph.decoder import Decoder, Inputs, decoder_of, split_rows
from pipeline.graph.ir import Graph, Part
from pipeline.graph.linear import Head, function_rules
from pipeline.graph.lowering import LOWERINGS
from pipeline.graph.model import Model, instantiate, load_config, positions, prepare
from pipeline.graph.passes import clean
from pipeline.graph.passes.dead import drop_dead
from pipeline.graph.recurrence import is_recurrent
from pipeline.graph.rope import patched_rope
from pipeline.graph.support import check_model_type
from pipeline.graph.tracer import Options, Tracer


@dataclass(frozen=True)
class Exported:
    """What `export` leaves: the ONNX file, one ONNX per expert template, layout.json's content."""

    onnx: Path
    experts: dict[str, Path]
    layout: dict[str, Any]


def export(checkpoint: Path, out: Path, options: Options, trust_remote_code: bool = False) -> Exported:
    """Writes `out`/llm.onnx (and expert-*.onnx) from checkpoint/{config.json,tensors.json,small.safetensors}.

    Raises UserError, with the reason, for a model that the engine or the exporter cannot express.
    """
    torch.set_num_threads(1)
    config = load_config(checkpoint, trust_remote_code)
    check_model_type(config.get_text_config().model_type)
    model = instantiate(config, trust_remote_code)
    listed = json.loads((checkpoint / "tensors.json").read_text(encoding="utf-8"))["tensors"]
    bindings = bind(model, {name: entry["shape"] for name, entry in listed.items()})
    values = small_values(checkpoint / "small.safetensors", bindings)
    prepare(model, values)
    traced = trace(model, values, options, decoder_of(config, options))
    clean(traced.graph)
    for experts in traced.graph.experts.values():
        clean(experts.graph)
    templates = _write_templates(traced.graph, out)
    onnx_file.write(traced.graph, out / "llm.onnx")
    return Exported(out / "llm.onnx", templates, describe(model, config, traced, bindings))


@dataclass(frozen=True)
class Traced:
    """A model's graph before clean-up, sizes merged. head: the output head's parameter name. limit: of positions."""

    graph: Graph
    head: str
    embedding: str
    limit: int
    notes: tuple[str, ...]
    approximations: tuple[str, ...]
    decoder: Decoder


def trace(
    model: Model, values: Callable[[str], torch.Tensor], options: Options, decoder: Decoder | None = None
) -> Traced:
    """Runs the model twice, at two lengths, and merges what it did."""
    names, decoder = parameter_names(model), decoder or Decoder()
    modules = {type(module).__module__ for module in model.modules() if ".modeling_" in type(module).__module__}
    with patched_rope(sorted(modules)), without_masks():
        short, long = (_trace_at(model, names, values, options, length, decoder) for length in lengths.LENGTHS)
    graph = lengths.merge(short.graph, long.graph)
    lengths.merge_experts(graph.experts, long.graph.experts)
    check_windows(model.config.get_text_config(), graph)
    embedding, head = _ends(model, names)
    limit = min(positions(model.config), short.position_limit or positions(model.config))
    return Traced(graph, head, embedding, limit, tuple(short.notes), tuple(short.approximations), decoder)


def describe(model: Model, config: PretrainedConfig, traced: Traced, bindings: Bindings) -> dict[str, Any]:
    """layout.json's content."""
    graph, text = traced.graph, config.get_text_config()
    rows, columns = (int(size) for size in model.get_input_embeddings().weight.shape)
    embedding = layout.parts(bindings, [Part(traced.embedding)])
    table = {"parts": embedding, "rows": rows, "columns": columns, **_markers(traced.decoder, embedding, rows)}
    linears = layout.linears(graph, bindings)
    head = traced.head.removesuffix(".weight")
    return {
        "format": layout.FORMAT,
        "model_type": text.model_type,
        "hidden_size": columns + traced.decoder.markers,
        "vocab_size": next(entry["out_features"] for entry in linears if entry["name"] == head),
        "num_layers": int(text.num_hidden_layers),
        "attention_type": "mix" if graph.window else "full",
        "sliding_window": graph.window,
        "recurrent": is_recurrent(graph),
        "is_mrope": traced.decoder.axes > 1,
        "max_position_embeddings": traced.limit,
        "embedding": table,
        "lm_head": head,
        "tied": next(entry["parts"] for entry in linears if entry["name"] == head) == embedding,
        "linears": linears,
        "tables": layout.tables(graph, bindings),
        "approximations": list(traced.approximations),
        "notes": list(traced.notes),
    }


def _markers(decoder: Decoder, parts: list[dict[str, Any]], rows: int) -> dict[str, Any]:
    """Columns behind the token table's, where the decoder reads some, and its parts with what stands in them."""
    if not decoder.markers:
        return {}
    return {"markers": decoder.markers, "parts": layout.flagged(parts, rows, decoder.flags)}


def parameter_names(model: Model) -> dict[int, str]:
    """id of each parameter → its first name."""
    names: dict[int, str] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), name)
    return names


def _ends(model: Model, names: Mapping[int, str]) -> tuple[str, str]:
    """Names of the embedding's and of the output head's parameter; the head's is its own even when it is tied."""
    head = model.get_output_embeddings()
    if head is None:
        raise UserError(f"{type(model).__name__} has no output head over the vocabulary")
    path = next(name for name, module in model.named_modules() if module is head)
    return names[id(model.get_input_embeddings().weight)], f"{path}.weight"


def _trace_at(
    model: Model,
    names: Mapping[int, str],
    values: Callable[[str], torch.Tensor],
    options: Options,
    length: int,
    decoder: Decoder,
) -> Tracer:
    functions: dict[Any, Any] = {}
    tracer = Tracer(LOWERINGS, functions, names, values, options)
    tracer.length = length
    embedding = model.get_input_embeddings().weight
    hidden = int(embedding.shape[1])
    rows = tracer.new_input("input_ids", (length, 1, hidden + decoder.markers), torch.float32)
    tracer.new_input("attention_mask", (1, 1, length, length), torch.float32)
    positions_ = tracer.new_input("position_ids", (decoder.axes, length), torch.int64)
    index = tracer.new_input("logits_index", (1,), torch.int64)
    extra = decoder.extra(tracer, length, hidden)
    ids = tracer.new_input("token_ids", (1, length), torch.int64)
    tracer.graph.inputs.pop("token_ids")  # only the embedding may read it, and that is the engine's
    embedded, markers = split_rows(tracer, tracer.value(rows), hidden, decoder.markers)
    layers = int(model.config.get_text_config().num_hidden_layers)
    given = Inputs(tracer, ids, embedded, markers, positions_, layers, extra)
    head = Head(id(embedding), id(model.get_output_embeddings().weight), _ends(model, names)[1], ids, embedded, index)
    functions |= function_rules(head, owners(model))
    with traced_errors(type(model).__name__), tracer:
        logits = decoder.logits(model, given)
    tracer.graph.outputs = {"logits": tracer.value(logits), **tracer.graph.outputs}
    drop_dead(tracer.graph)
    if any(tracer.value(ids) in node.inputs for node in tracer.graph.nodes):
        raise UserError(
            "the model uses its token ids beside their embeddings; the engine gives the graph embeddings only"
        )
    return tracer


@contextmanager
def traced_errors(name: str) -> Iterator[None]:
    """What a model's own code raises on tensors without values, as one line that names the model's class."""
    try:
        yield
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(f"{name} cannot be traced: {type(error).__name__}: {reason}") from error


def owners(model: Model) -> dict[str, type]:
    """Parameter name → class of its module."""
    return {
        f"{path}.{name}" if path else name: type(module)
        for path, module in model.named_modules()
        for name, _ in module.named_parameters(recurse=False, remove_duplicate=False)
    }


def _write_templates(graph: Graph, out: Path) -> dict[str, Path]:
    """One ONNX per distinct expert graph; layers whose experts compute alike share it. Returns template name → file."""
    templates: dict[bytes, str] = {}
    for experts in graph.experts.values():
        content = onnx_file.serialise(experts.graph, "expert")
        template = templates.setdefault(content, f"expert-{len(templates)}")
        for node in graph.nodes:
            if node.op == "MoE" and node.attributes["name"] == experts.name:
                node.attributes["expert"] = template
    for content, name in templates.items():
        (out / f"{name}.onnx").write_bytes(content)
    return {name: out / f"{name}.onnx" for name in templates.values()}

"""What the graphs of embedding models and of cross-encoders share: token embeddings in, one row out for the whole text.

The engine's Embedding class feeds `input_ids` (float32 [sequence, 1, hidden], the rows of the token table),
`attention_mask` (float32 [1, 1, sequence, sequence]: ones, or causal and additive) and `position_ids` (int32
[1, sequence]), and reads `sentence_embeddings` [1, columns] (embedding.cpp, tag 3.6.1). There is one text at a time and
no padding, so an encoder needs no mask; a decoder's attention is the engine's own op without a cache.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from transformers import PretrainedConfig
from transformers.modeling_utils import AttentionInterface

from pipeline.errors import UserError
from pipeline.graph import layout, lengths, onnx_file
from pipeline.graph.attention import emit_attention, without_masks
from pipeline.graph.bindings import bind, small_values
from pipeline.graph.export import Exported, owners, parameter_names, traced_errors
from pipeline.graph.ir import Graph, Part
from pipeline.graph.linear import Head, function_rules
from pipeline.graph.lowering import LOWERINGS
from pipeline.graph.model import Model, build, positions, prepare
from pipeline.graph.moves import cut, reshape
from pipeline.graph.passes import POSITION_FREE, clean
from pipeline.graph.passes.dead import drop_dead
from pipeline.graph.rope import patched_rope
from pipeline.graph.tracer import Options, Tracer, active

IMPLEMENTATION = "mnn_sentence"
INPUTS = ("input_ids", "attention_mask", "position_ids")
OUTPUT = "sentence_embeddings"


@dataclass(frozen=True)
class Fed:
    """What the engine feeds. ids: int64 [1, sequence], which only the token table may read. places: int64 [1, sequence]
    from 0 on. mask: float32 [1, 1, sequence, sequence]. flags: float32 [1, sequence, markers], the token table's
    columns behind the embedding's own; None without any."""

    ids: torch.Tensor
    places: torch.Tensor
    mask: torch.Tensor
    flags: torch.Tensor | None


class Purpose(Protocol):
    """What a model is exported for."""

    @property
    def auto(self) -> Any:
        """One of transformers' AutoModel classes."""

    @property
    def markers(self) -> int:
        """Columns behind the token table's own, by which the graph tells tokens apart."""

    def outcome(self, model: Model, fed: Fed) -> torch.Tensor:
        """float32 [1, columns] of the whole text; runs the model under the tracer."""

    def describe(self, graph: Graph, described: dict[str, Any]) -> dict[str, Any]:
        """layout.json with what this purpose adds. described: with linears, tables and the embedding's parts."""


def export_encoder(
    config: PretrainedConfig, checkpoint: Path, out: Path, options: Options, purpose: Purpose, trust: bool
) -> Exported:
    """Writes `out`/llm.onnx from checkpoint/{config.json,tensors.json,small.safetensors}.

    trust: run code that comes with the model. Raises UserError, with the reason, for a model that the engine or the
    exporter cannot express.
    """
    torch.set_num_threads(1)
    listed = json.loads((checkpoint / "tensors.json").read_text(encoding="utf-8"))["tensors"]
    has_pooler = any(".pooler." in f".{name}" for name in listed)
    model = _instantiate(config, purpose.auto, trust, has_pooler)
    bindings = bind(model, {name: entry["shape"] for name, entry in listed.items()})
    values = small_values(checkpoint / "small.safetensors", bindings)
    prepare(model, values)
    if any(getattr(module, "is_causal", True) is False for module in model.modules()):
        options = replace(options, fuse_rope=False)  # the engine's RoPE op feeds its attention op and nothing else
    modules = {type(module).__module__ for module in model.modules() if ".modeling_" in type(module).__module__}
    with patched_rope(sorted(modules)), without_masks():
        short, long = (_trace_at(model, values, options, purpose, length) for length in lengths.LENGTHS)
    graph = lengths.merge(short.graph, long.graph)
    clean(graph, POSITION_FREE)
    onnx_file.write(graph, out / "llm.onnx")
    described = _describe(model, config, parameter_names(model))
    described["embedding"]["parts"] = layout.parts(bindings, described["embedding"]["parts"])
    described |= {"linears": layout.linears(graph, bindings), "tables": layout.tables(graph, bindings)}
    described["notes"] = list(short.notes)
    return Exported(out / "llm.onnx", {}, purpose.describe(graph, described))


def is_causal(graph: Graph) -> bool:
    """True for a decoder's graph: its attention is the engine's op, which reads the mask."""
    return any(node.op == "FusedAttention" for node in graph.nodes)


def _instantiate(config: PretrainedConfig, auto: Any, trust: bool, has_pooler: bool) -> Model:
    AttentionInterface.register(IMPLEMENTATION, _attention)
    try:
        model = build(auto, config, trust)
        if not has_pooler and getattr(model, "pooler", None) is not None:
            model.pooler = None  # whose weights the checkpoint has not, and whose output nobody reads
    except (ValueError, KeyError, ImportError, AttributeError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(f"transformers cannot build a {config.model_type} model: {reason}") from None
    if model.get_input_embeddings() is None or getattr(config, "is_encoder_decoder", False):
        raise UserError(f"{type(model).__name__} is no single stack of layers over token embeddings")
    for item in {id(m.config): m.config for m in model.modules() if hasattr(m, "config")}.values():
        item._attn_implementation_internal = IMPLEMENTATION if model._supports_attention_backend else "sdpa"
    for module in model.modules():
        if hasattr(module, "warn_if_padding_and_no_attention_mask"):
            module.warn_if_padding_and_no_attention_mask = lambda *_: None
    return model


def _attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    is_causal: bool | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' AttentionInterface. A decoder's goes to the engine's op, an encoder's is a plain softmax."""
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    if softcap is not None or attention_mask is not None:
        raise UserError("the model caps or masks its attention scores in a way of its own, which the graph has not")
    if sliding_window is not None or getattr(module, "sliding_window", None):
        raise UserError("the attention has a sliding window, which the engine's embedding class has no mask for")
    if causal:
        return _causal(module, query, key, value, scaling), None
    return _softmax(query, key, value, scaling).transpose(1, 2), None


def _causal(
    module: torch.nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float | None
) -> torch.Tensor:
    tracer = active()
    tensors = tracer.value(query), tracer.value(key), tracer.value(value)
    layer = int(module.layer_idx)  # type: ignore[arg-type]
    return tracer.tensor(emit_attention(tracer, *tensors, layer, scaling, kv_cache=0))


def _softmax(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float | None) -> torch.Tensor:
    """[1, heads, sequence, head_dim] each, as many heads for keys as for queries."""
    if key.shape[1] != query.shape[1]:
        raise UserError("the encoder's attention shares keys between heads, which the exporter does not know")
    factor = float(query.shape[-1]) ** -0.5 if scaling is None else scaling
    scores = torch.matmul(query * factor, key.transpose(2, 3))
    return torch.matmul(scores.softmax(-1), value)


def _plain_attention(
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
    if attn_mask is not None or is_causal or enable_gqa:
        raise UserError("the model gives its attention a mask of its own, which the graph has not")
    return _softmax(query, key, value, scale)


def _trace_at(
    model: Model, values: Callable[[str], torch.Tensor], options: Options, purpose: Purpose, length: int
) -> Tracer:
    functions: dict[Any, Any] = {}
    tracer = Tracer(LOWERINGS, functions, parameter_names(model), values, options)
    tracer.length = length
    table = model.get_input_embeddings().weight
    fed, embedded = _feed(tracer, length, int(table.shape[1]), purpose.markers)
    functions |= function_rules(Head(id(table), 0, "", fed.ids, embedded, fed.ids), owners(model))
    functions[F.scaled_dot_product_attention] = _plain_attention
    with traced_errors(type(model).__name__), tracer:
        outcome = purpose.outcome(model, fed)
    tracer.graph.outputs = {OUTPUT: tracer.value(outcome)}
    drop_dead(tracer.graph)
    _check_inputs(tracer.graph, tracer.value(fed.ids))
    return tracer


def _feed(tracer: Tracer, length: int, columns: int, markers: int) -> tuple[Fed, torch.Tensor]:
    """The graph's inputs, and the tokens' embeddings float32 [1, length, columns]."""
    rows = tracer.new_input("input_ids", (length, 1, columns + markers), torch.float32)
    mask = tracer.new_input("attention_mask", (1, 1, length, length), torch.float32)
    places = tracer.new_input("position_ids", (1, length), torch.int64)
    ids = tracer.new_input("token_ids", (1, length), torch.int64)
    tracer.graph.inputs.pop("token_ids")  # only the embedding may read it, and that is the engine's
    whole = reshape(tracer, tracer.value(rows), (1, length, columns + markers))
    embedded = tracer.tensor(cut(tracer, whole, 2, 0, columns))
    flags = tracer.tensor(cut(tracer, whole, 2, columns, columns + markers)) if markers else None
    return Fed(ids, places, mask, flags), embedded


def run_model(model: Model, fed: Fed, token_types: torch.Tensor | None = None) -> Any:
    """The model's own output. token_types: int64 [1, sequence]; None for 0 everywhere, one row for every position."""
    first = first_position(model)
    types = torch.zeros((1, 1), dtype=torch.int64) if token_types is None else token_types
    more = {"token_type_ids": types, "use_cache": False}  # a cache is not wanted, where there could be one
    known = inspect.signature(model.forward).parameters
    given = {name: value for name, value in more.items() if name in known}
    return model(input_ids=fed.ids, position_ids=fed.places + first if first else fed.places, **given)


def first_position(model: Model) -> int:
    """RoBERTa and its kin count positions from the padding token's id on, and know it by the token ids."""
    for module in model.modules():
        if hasattr(type(module), "create_position_ids_from_input_ids") and hasattr(module, "padding_idx"):
            return int(module.padding_idx) + 1
    return 0


def _check_inputs(graph: Graph, ids: Any) -> None:
    read = {id(value) for node in graph.nodes for value in node.inputs}
    if id(ids) in read:
        raise UserError(
            "the model uses its token ids beside their embeddings; the engine gives the graph embeddings only"
        )
    unread = [name for name in INPUTS if id(graph.inputs[name]) not in read]
    if unread:
        raise UserError(f"the model does not use {', '.join(unread)}, which the engine gives to every embedding graph")


def _describe(model: Model, config: PretrainedConfig, names: Mapping[int, str]) -> dict[str, Any]:
    rows, columns = (int(size) for size in model.get_input_embeddings().weight.shape)
    table = Part(names[id(model.get_input_embeddings().weight)])
    return {
        "format": layout.FORMAT,
        "model_type": config.model_type,
        "hidden_size": columns,
        "vocab_size": rows,
        "num_layers": int(config.num_hidden_layers),
        "attention_type": "full",
        "sliding_window": 0,
        "is_mrope": False,
        "max_position_embeddings": positions(config) - first_position(model),
        "embedding": {"rows": rows, "columns": columns, "parts": [table]},
        "lm_head": "",
        "tied": False,
        "approximations": [],
    }

"""The graph of an embedding model: token embeddings in, one vector for the whole text out.

The engine's Embedding class feeds `input_ids` (float32 [sequence, 1, hidden], the rows of the token table),
`attention_mask` (float32 [1, 1, sequence, sequence]: ones, or causal and additive) and `position_ids` (int32
[1, sequence]), and reads `sentence_embeddings` [1, hidden] (embedding.cpp, tag 3.6.1). There is one text at a time and
no padding, so an encoder needs no mask; a decoder's attention is the engine's own op without a cache.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from transformers import AutoModel, PretrainedConfig
from transformers.modeling_utils import AttentionInterface

from pipeline.checkpoint.sentence import SentenceConfig
from pipeline.errors import UserError
from pipeline.graph import layout, lengths, onnx_file
from pipeline.graph.attention import emit_attention, without_masks
from pipeline.graph.bindings import bind, small_values
from pipeline.graph.export import Exported, owners, parameter_names, traced_errors
from pipeline.graph.ir import Graph, Part
from pipeline.graph.linear import Head, function_rules
from pipeline.graph.lowering import LOWERINGS
from pipeline.graph.model import Model, build, load_config, positions, prepare
from pipeline.graph.moves import reshape
from pipeline.graph.passes import POSITION_FREE, clean
from pipeline.graph.passes.dead import drop_dead
from pipeline.graph.rope import patched_rope
from pipeline.graph.tracer import Options, Tracer, active

IMPLEMENTATION = "mnn_sentence"
INPUTS = ("input_ids", "attention_mask", "position_ids")


def export_sentence(
    checkpoint: Path, out: Path, options: Options, sentence: SentenceConfig, trust_remote_code: bool = False
) -> Exported:
    """Writes `out`/llm.onnx from checkpoint/{config.json,tensors.json,small.safetensors}.

    Raises UserError, with the reason, for a model that the engine or the exporter cannot express.
    """
    torch.set_num_threads(1)
    config = load_config(checkpoint, trust_remote_code)
    _refuse_rerankers(config)
    listed = json.loads((checkpoint / "tensors.json").read_text(encoding="utf-8"))["tensors"]
    model = _instantiate(config, trust_remote_code, has_pooler=any(".pooler." in f".{name}" for name in listed))
    bindings = bind(model, {name: entry["shape"] for name, entry in listed.items()})
    values = small_values(checkpoint / "small.safetensors", bindings)
    prepare(model, values)
    if any(getattr(module, "is_causal", True) is False for module in model.modules()):
        options = replace(options, fuse_rope=False)  # the engine's RoPE op feeds its attention op and nothing else
    modules = {type(module).__module__ for module in model.modules() if ".modeling_" in type(module).__module__}
    with patched_rope(sorted(modules)), without_masks():
        short, long = (_trace_at(model, values, options, sentence, length) for length in lengths.LENGTHS)
    graph = lengths.merge(short.graph, long.graph)
    clean(graph, POSITION_FREE)
    onnx_file.write(graph, out / "llm.onnx")
    names = parameter_names(model)
    described = _describe(model, config, graph, names, sentence)
    embedding = layout.parts(bindings, [Part(names[id(model.get_input_embeddings().weight)])])
    described["embedding"] = {**described["embedding"], "parts": embedding}
    described |= {"linears": layout.linears(graph, bindings), "tables": layout.tables(graph, bindings)}
    described["notes"] = [*short.notes, *_notes(sentence)]
    return Exported(out / "llm.onnx", {}, described)


def _refuse_rerankers(config: PretrainedConfig) -> None:
    named = next((name for name in config.architectures or [] if name.endswith("ForSequenceClassification")), "")
    if named:
        raise UserError(
            f"a {named} scores pairs of texts, for which the engine's Python wheel has no class",
            "use a reranker that answers yes or no, e.g. model=qwen3-reranker-0.6b",
        )


def _instantiate(config: PretrainedConfig, trust_remote_code: bool, has_pooler: bool) -> Model:
    AttentionInterface.register(IMPLEMENTATION, _attention)
    try:
        model = build(AutoModel, config, trust_remote_code)
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
    model: Model, values: Callable[[str], torch.Tensor], options: Options, sentence: SentenceConfig, length: int
) -> Tracer:
    functions: dict[Any, Any] = {}
    tracer = Tracer(LOWERINGS, functions, parameter_names(model), values, options)
    tracer.length = length
    table = model.get_input_embeddings().weight
    rows = tracer.new_input("input_ids", (length, 1, int(table.shape[1])), torch.float32)
    mask = tracer.new_input("attention_mask", (1, 1, length, length), torch.float32)
    places = tracer.new_input("position_ids", (1, length), torch.int64)
    ids = tracer.new_input("token_ids", (1, length), torch.int64)
    tracer.graph.inputs.pop("token_ids")  # only the embedding may read it, and that is the engine's
    embedded = tracer.tensor(reshape(tracer, tracer.value(rows), (1, length, int(table.shape[1]))))
    functions |= function_rules(Head(id(table), 0, "", ids, embedded, ids), owners(model))
    functions[F.scaled_dot_product_attention] = _plain_attention
    with traced_errors(type(model).__name__), tracer:
        first = _first_position(model)
        hidden = model(input_ids=ids, position_ids=places + first if first else places, **_more(model))[0]
        causal = any(node.op == "FusedAttention" for node in tracer.graph.nodes)
        vector = _pooled(hidden, None if causal else mask, sentence.pooling)
        vector = F.normalize(vector, dim=-1) if sentence.normalize else vector
    tracer.graph.outputs = {"sentence_embeddings": tracer.value(vector)}
    drop_dead(tracer.graph)
    _check_inputs(tracer.graph, tracer.value(ids))
    return tracer


def _first_position(model: Model) -> int:
    """RoBERTa and its kin count positions from the padding token's id on, and know it by the token ids."""
    for module in model.modules():
        if hasattr(type(module), "create_position_ids_from_input_ids") and hasattr(module, "padding_idx"):
            return int(module.padding_idx) + 1
    return 0


def _more(model: Model) -> dict[str, Any]:
    """Token types are all 0: one row for every position. A cache is not wanted, where there could be one."""
    known = inspect.signature(model.forward).parameters
    more: dict[str, Any] = {"token_type_ids": torch.zeros((1, 1), dtype=torch.int64), "use_cache": False}
    return {name: value for name, value in more.items() if name in known}


def _pooled(hidden: torch.Tensor, mask: torch.Tensor | None, pooling: str) -> torch.Tensor:
    """[1, sequence, hidden] → [1, hidden].

    mask: the engine's ones, to weigh the tokens by; it keeps the graph's input in use, which the engine asks for by
    name. None for a decoder, whose attention reads the mask.
    """
    weights = None if mask is None else mask[:, 0, :1]  # [1, 1, sequence]
    if pooling == "mean":
        return hidden.mean(1) if weights is None else torch.matmul(weights, hidden)[:, 0] / weights.sum(-1)
    picked = {"cls": lambda: hidden[:, 0], "last": lambda: hidden[:, -1], "max": lambda: hidden.amax(1)}[pooling]()
    return picked if weights is None else picked * weights[:, :, 0]


def _check_inputs(graph: Graph, ids: Any) -> None:
    read = {id(value) for node in graph.nodes for value in node.inputs}
    if id(ids) in read:
        raise UserError(
            "the model uses its token ids beside their embeddings; the engine gives the graph embeddings only"
        )
    unread = [name for name in INPUTS if id(graph.inputs[name]) not in read]
    if unread:
        raise UserError(f"the model does not use {', '.join(unread)}, which the engine gives to every embedding graph")


def _describe(
    model: Model, config: PretrainedConfig, graph: Graph, names: Mapping[int, str], sentence: SentenceConfig
) -> dict[str, Any]:
    rows, columns = (int(size) for size in model.get_input_embeddings().weight.shape)
    limit = positions(config) - _first_position(model)
    return {
        "format": layout.FORMAT,
        "task": "embedding",
        "model_type": config.model_type,
        "hidden_size": columns,
        "vocab_size": rows,
        "num_layers": int(config.num_hidden_layers),
        "attention_type": "full",
        "sliding_window": 0,
        "is_mrope": False,
        "max_position_embeddings": min(sentence.max_tokens or limit, limit),
        "embedding": {"rows": rows, "columns": columns},
        "lm_head": "",
        "tied": False,
        "approximations": [],
        "sentence": {
            "causal": any(node.op == "FusedAttention" for node in graph.nodes),
            "dimensions": int(graph.outputs["sentence_embeddings"].shape[-1]),  # type: ignore[arg-type]
            "pooling": sentence.pooling,
            "normalize": sentence.normalize,
            "prompts": dict(sentence.prompts),
            "default_prompt": sentence.default_prompt,
            "lowercase": sentence.lowercase,
        },
    }


def _notes(sentence: SentenceConfig) -> list[str]:
    told = [f"{sentence.pooling} pooling{', normalised' if sentence.normalize else ''}"]
    if sentence.prompts:
        told.append(f"prompts: {', '.join(sorted(sentence.prompts))}")
    return told

"""The graph of a cross-encoder: token embeddings of a query and a document in, one logit out (see `encoder`).

Token types: the engine feeds none. Where the model knows the query's tokens from the document's by their type, the
token table gets one more row and one more column. The row is a copy of the separator's, with a 1 in that column; it
stands for the last separator between the two texts. So the graph sees where the document begins, whatever separators
the texts themselves hold.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification

from pipeline.errors import UserError
from pipeline.graph.classifier import check_cross_encoder
from pipeline.graph.encoder import Fed, export_encoder, is_causal, run_model
from pipeline.graph.export import Exported
from pipeline.graph.ir import Graph
from pipeline.graph.model import Model, load_config
from pipeline.graph.tracer import Options, active


def export_cross_encoder(
    checkpoint: Path, out: Path, options: Options, pair: Mapping[str, Any], trust_remote_code: bool = False
) -> Exported:
    """Writes `out`/llm.onnx from checkpoint/{config.json,tensors.json,small.safetensors}.

    pair: pair.json. Raises UserError, with the reason, for a model that the engine or the exporter cannot express.
    """
    config = load_config(checkpoint, trust_remote_code)
    check_cross_encoder({"architectures": config.architectures, "id2label": config.id2label})
    typed = bool(pair["typed"]) and int(getattr(config, "type_vocab_size", 0) or 0) > 1
    purpose = _Pairs(pair, markers=int(typed))
    return export_encoder(config, checkpoint, out, options, purpose, trust_remote_code)


@dataclass(frozen=True)
class _Pairs:
    pair: Mapping[str, Any]
    auto: Any = AutoModelForSequenceClassification
    markers: int = 0

    def outcome(self, model: Model, fed: Fed) -> torch.Tensor:
        if fed.flags is not None and "token_type_ids" not in inspect.signature(model.forward).parameters:
            raise UserError(f"{type(model).__name__} has token types in its config and takes none")
        types = None if fed.flags is None else token_types(fed.flags[:, :, 0], fed.places)
        logits: torch.Tensor = run_model(model, fed, types).logits  # [1, 1]
        if is_causal(active().graph):
            raise UserError("the model reads from left to right, and its score is not taken from the first token")
        return logits * fed.mask[:, 0, 0, :1]  # ones: it keeps the input in use, which the engine asks for by name

    def describe(self, graph: Graph, described: dict[str, Any]) -> dict[str, Any]:
        embedding = described["embedding"]
        pair = {"causal": False, "flag": None, **self.pair}
        limit, rows = int(described["max_position_embeddings"]), int(embedding["rows"])
        if self.markers:
            pair["flag"] = rows
            embedding |= {"rows": rows + 1, "markers": self.markers, "parts": self._flagged(embedding["parts"])}
            described |= {"hidden_size": int(described["hidden_size"]) + self.markers, "vocab_size": rows + 1}
        for linear in described["linears"]:
            linear["keep"] |= linear["layer"] is None  # the head: small, and every score goes through it
        longest = min(int(pair.pop("max_tokens")) or limit, limit)
        notes = [*described["notes"], f"one score for a query and a document: {pair['activation']} of the logit"]
        return {**described, "task": "rerank", "max_position_embeddings": longest, "pair": pair, "notes": notes}

    def _flagged(self, parts: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The token table's parts, and once more the row of the separator before the document, with its column."""
        row = int(self.pair["between"][-1])
        if len(parts) != 1 or parts[0]["rows"] is not None:
            raise UserError("the token table is no single tensor of the checkpoint, so no row can be added to it")
        return [*parts, {**parts[0], "rows": [row, row + 1], "marker": 1.0}]


def token_types(flags: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """int64 [1, sequence]: 1 behind the flagged token, 0 up to it; 0 everywhere if none is flagged.

    flags: float32 [1, sequence], at most a single 1. places: int64 [1, sequence]. By products and sums: every backend
    has those, and they are exact as long as positions are (up to 2,048 in half precision).
    """
    distance = places.float()
    flagged = (flags * distance).sum(-1, keepdim=True)
    behind = (distance - flagged).clamp(0.0, 1.0)
    return (behind * flags.sum(-1, keepdim=True)).long()

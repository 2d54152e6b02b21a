"""The graph of an embedding model: token embeddings in, one vector for the whole text out (see `encoder`)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from transformers import AutoModel

from pipeline.checkpoint.sentence import SentenceConfig
from pipeline.errors import UserError
from pipeline.graph.classifier import classifier
from pipeline.graph.encoder import OUTPUT, Fed, export_encoder, is_causal, run_model
from pipeline.graph.export import Exported
from pipeline.graph.ir import Graph
from pipeline.graph.model import Model, load_config
from pipeline.graph.tracer import Options, active


def export_sentence(
    checkpoint: Path, out: Path, options: Options, sentence: SentenceConfig, trust_remote_code: bool = False
) -> Exported:
    """Writes `out`/llm.onnx from checkpoint/{config.json,tensors.json,small.safetensors}.

    Raises UserError, with the reason, for a model that the engine or the exporter cannot express.
    """
    config = load_config(checkpoint, trust_remote_code)
    if named := classifier({"architectures": config.architectures}):
        raise UserError(f"a {named} scores pairs of texts and makes no vectors", "set model.task=rerank")
    return export_encoder(config, checkpoint, out, options, _Sentences(sentence), trust_remote_code)


@dataclass(frozen=True)
class _Sentences:
    sentence: SentenceConfig
    auto: Any = AutoModel
    markers: int = 0

    def outcome(self, model: Model, fed: Fed) -> torch.Tensor:
        hidden = run_model(model, fed)[0]
        vector = _pooled(hidden, None if is_causal(active().graph) else fed.mask, self.sentence.pooling)
        return F.normalize(vector, dim=-1) if self.sentence.normalize else vector

    def describe(self, graph: Graph, described: dict[str, Any]) -> dict[str, Any]:
        sentence, limit = self.sentence, int(described["max_position_embeddings"])
        told = {
            "causal": is_causal(graph),
            "dimensions": int(graph.outputs[OUTPUT].shape[-1]),  # type: ignore[arg-type]
            "pooling": sentence.pooling,
            "normalize": sentence.normalize,
            "prompts": dict(sentence.prompts),
            "default_prompt": sentence.default_prompt,
            "lowercase": sentence.lowercase,
        }
        longest = min(sentence.max_tokens or limit, limit)
        notes = [*described["notes"], *_notes(sentence)]
        more = {"task": "embedding", "max_position_embeddings": longest, "sentence": told, "notes": notes}
        return {**described, **more}


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


def _notes(sentence: SentenceConfig) -> list[str]:
    told = [f"{sentence.pooling} pooling{', normalised' if sentence.normalize else ''}"]
    if sentence.prompts:
        told.append(f"prompts: {', '.join(sorted(sentence.prompts))}")
    return told

"""Where an adapter's modules are in a checkpoint: names of modules to names of tensors."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from pipeline.checkpoint.tensor import LazyTensor

PREFIX = "base_model.model."
# The model's inner part has a name in the Python module and, in some published checkpoints, none in the file.
INNER = ("model.", "transformer.", "gpt_neox.")
EMBEDDINGS = ("embed_tokens", "wte", "embed_in", "word_embeddings", "tok_embeddings", "embedding")
HEADS = ("lm_head", "embed_out")
# Stacked experts of transformers 5 (gate and up in one) to the names of single experts in checkpoints.
EXPERT_NAMES = (("{}.gate_proj", "{}.up_proj", "{}.down_proj"), ("{}.w1", "{}.w3", "{}.w2"))


def tensor_name(module: str, leaf: str, checkpoint: Iterable[str]) -> str | None:
    """The checkpoint's name of `module`.`leaf`, or None. The inner model's prefix may be missing on either side."""
    wanted = f"{module}.{leaf}"
    names = checkpoint if isinstance(checkpoint, Mapping) else set(checkpoint)
    candidates = [wanted, *(wanted.removeprefix(prefix) for prefix in INNER), *(prefix + wanted for prefix in INNER)]
    return next((name for name in candidates if name in names), None)


def embedding_name(checkpoint: Mapping[str, LazyTensor]) -> str | None:
    """The token embedding's tensor, by the names that families give it."""
    found = [name for name in checkpoint if name.endswith(tuple(f"{name}.weight" for name in EMBEDDINGS))]
    return min(found, key=len) if found else None


def expert_tensors(module: str, checkpoint: Mapping[str, LazyTensor]) -> list[tuple[str, str, str]]:
    """(gate, up, down) tensor names of each expert of the stack `module` ("….mlp.experts"), in order; [] if none."""
    places = (module, module.replace(".mlp.", ".block_sparse_moe."))
    for place in places:
        for names in EXPERT_NAMES:
            first = tensor_name(f"{place}.0", names[2].format("").lstrip(".") + ".weight", checkpoint)
            if first is not None:
                return _all_experts(first, names, checkpoint)
    return []


def _all_experts(
    first: str, names: tuple[str, str, str], checkpoint: Mapping[str, LazyTensor]
) -> list[tuple[str, str, str]]:
    stem = re.sub(r"\.0\.\w+\.weight$", "", first)
    experts: list[tuple[str, str, str]] = []
    while f"{names[2].format(f'{stem}.{len(experts)}')}.weight" in checkpoint:
        gate, up, down = (f"{name.format(f'{stem}.{len(experts)}')}.weight" for name in names)
        experts.append((gate, up, down))
    return experts

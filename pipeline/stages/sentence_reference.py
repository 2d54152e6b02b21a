"""An embedding model's Hugging Face reference: token ids and vectors, once per source."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.build.stage import Input, Log, Stage
from pipeline.stages.reference import expected_memory, too_big
from pipeline.verify.applies import proves_sentences

STAGE = Stage(
    name="sentence_reference",
    module=__name__,
    inputs=(
        Input("source"),
        Input("checkpoint", ("tensors.json", "config.json")),
        Input("graph", ("layout.json",)),
    ),
    config=(
        *("model.trust_remote_code", "model.allow_pickle", "model.pooling"),
        *("verify.length", "verify.threads", "verify.reference_memory_gb"),
    ),
    tools=("torch", "transformers", "tokenizers", "safetensors"),
    warm=("pipeline.graph.quick_import",),
    memory=expected_memory,
    applies=proves_sentences,
)


def run(config: Mapping[str, Any], inputs: Mapping[str, Path], out: Path, log: Log) -> None:
    """Write sentences.json ("texts", "ids", "ranked", "skipped") and, if the model fits into memory, vectors.npy."""
    import numpy as np
    import torch

    from pipeline.graph import quick_import

    quick_import.load()
    from pipeline.checkpoint.sentence import read_sentence_config
    from pipeline.verify import sentence_reference, sentence_text
    from pipeline.verify.file_tokenizer import open_tokenizer

    model, verify = config["model"], config["verify"]
    torch.set_num_threads(int(verify["threads"]))
    layout = json.loads((inputs["graph"] / "layout.json").read_text("utf-8"))
    sentence = read_sentence_config(inputs["source"], str(model["pooling"]))
    limit, trusted = int(layout["max_position_embeddings"]), bool(model["trust_remote_code"])
    tokenizer = open_tokenizer(inputs["source"], limit, trust_remote_code=trusted)
    texts = sentence_reference.texts(sentence)
    ids = sentence_reference.token_ids(tokenizer, texts)
    skipped = too_big(verify, inputs["checkpoint"])
    if skipped:
        log.note(skipped)
    else:
        encoder = sentence_reference.load_encoder(inputs["source"], model)
        np.save(out / sentence_reference.VECTORS, sentence_reference.vectors(encoder, ids, sentence))
    told = {"format": 1, "texts": texts, "ids": ids, "ranked": len(sentence_text.ranked()), "skipped": skipped}
    (out / sentence_reference.REFERENCE).write_text(json.dumps(told, ensure_ascii=False) + "\n", "utf-8")

"""Stage audio_selfcheck: a small random copy of an audio model, its encoder too, against Hugging Face on sounds."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.build.stage import Input, Log, Stage
from pipeline.graph.towers.tower_files import PROCESSORS
from pipeline.stages.towers.wanted import proves

RESULT = "sounds.json"

STAGE = Stage(
    name="audio_selfcheck",
    module=__name__,
    inputs=(Input("checkpoint", ("config.json", "*.py", *PROCESSORS)),),
    config=("model.trust_remote_code", "target", "visual.mode", "visual.positions"),
    tools=("MNN", "torch", "transformers", "onnx", "numpy", "tokenizers", "safetensors"),
    code=("pipeline.mnn.runner", "pipeline.graph.towers"),
    warm=("torch", "transformers"),
    memory=lambda recipe: 1500 << 20,
    applies=proves("audio"),
)


def run(config: Mapping[str, Any], inputs: Mapping[str, Path], out: Path, log: Log) -> None:
    """Write `sounds.json`: errors by prompt, relative to max|logit|. The gate holds the limits."""
    import torch

    from pipeline.verify import sounds
    from pipeline.verify.small_encoder import small_encoder

    torch.set_num_threads(1)
    sections = {"visual": config["visual"]}
    with small_encoder("audio", config["model"], config["target"], inputs["checkpoint"], sections) as small:
        found = sounds.compare(small.product, small.network, small.source, int(small.config.audio_token_id))
    (out / RESULT).write_text(json.dumps({"sounds": found}, indent=1, sort_keys=True) + "\n", "utf-8")
    exact = max(max(one["prefill_error"], one["decode_error"]) for one in found.values())
    features = max(one["features_error"] for one in found.values())
    log.note(f"sounds: largest logit error {exact:.1e} of the largest logit; on Hugging Face's features {features:.1e}")

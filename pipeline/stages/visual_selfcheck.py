"""Stage visual_selfcheck: a small random copy of a vision model, its encoder too, against Hugging Face on pictures."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.build.stage import Input, Log, Stage
from pipeline.graph.towers.tower_files import PROCESSORS
from pipeline.stages.towers.wanted import proves

RESULT = "pictures.json"

STAGE = Stage(
    name="visual_selfcheck",
    module=__name__,
    inputs=(Input("checkpoint", ("config.json", "*.py", *PROCESSORS)),),
    config=("model.trust_remote_code", "target", "visual.positions"),
    tools=("MNN", "torch", "transformers", "onnx", "numpy", "tokenizers", "safetensors", "pillow"),
    code=("pipeline.mnn.runner", "pipeline.graph.towers"),
    warm=("torch", "transformers"),
    memory=lambda recipe: 1500 << 20,
    applies=proves("visual"),
)


def run(config: Mapping[str, Any], inputs: Mapping[str, Path], out: Path, log: Log) -> None:
    """Write `pictures.json`: errors by picture, relative to max|logit|. The gate holds the limit."""
    import torch

    from pipeline.verify import pictures
    from pipeline.verify.small_encoder import small_encoder

    torch.set_num_threads(1)
    positions = config["visual"]["positions"]
    sections = {"visual": config["visual"]}
    with small_encoder("visual", config["model"], config["target"], inputs["checkpoint"], sections) as small:
        found = pictures.compare(small.product, small.network, small.source, int(small.config.image_token_id))
        counted = json.loads((small.product / "llm_config.json").read_text("utf-8")).get("is_mrope")
    # Only models whose positions the engine counts have errors that are known and allowed.
    told = {"positions": positions if counted else "exact", "pictures": found}
    (out / RESULT).write_text(json.dumps(told, indent=1, sort_keys=True) + "\n", "utf-8")
    worst = max(error for errors in found.values() for error in errors.values())
    log.note(f"pictures: largest logit error {worst:.1e} of the largest logit")

"""Stage visual_selfcheck: a small random copy of a vision model, its encoder too, against Hugging Face on pictures."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.build.stage import Input, Log, Stage
from pipeline.graph.towers.tower_files import PROCESSORS
from pipeline.stages.towers.wanted import wants

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
    applies=lambda recipe: bool(recipe["verify"]["mode"] != "off" and wants("visual")(recipe)),
)


def run(config: Mapping[str, Any], inputs: Mapping[str, Path], out: Path, log: Log) -> None:
    """Write `pictures.json`: errors by picture, relative to max|logit|. The gate holds the limit."""
    import torch

    from pipeline.verify import pictures, random_model, selfcheck, shrink, shrink_encoders
    from pipeline.verify.huggingface import load_config

    torch.set_num_threads(1)
    model = config["model"]
    small = shrink.shrink(load_config(inputs["checkpoint"], trust_remote_code=bool(model["trust_remote_code"])))
    with tempfile.TemporaryDirectory(prefix="selfcheck-") as scratch:
        work = Path(scratch)
        network = random_model.random_model(small.config)
        random_model.write_folder(network, work / "source", inputs["checkpoint"])
        shrink_encoders.write_tokenizer(work / "source")
        for name in PROCESSORS:
            if (inputs["checkpoint"] / name).is_file():
                shutil.copyfile(inputs["checkpoint"] / name, work / "source" / name)
        recipe = selfcheck.fp16_recipe(model, config["target"], {"allow_approximate": True})
        recipe["visual"] |= {"positions": config["visual"]["positions"]}
        product = selfcheck.build(work / "source", work, recipe, encoders=("visual",))
        found = pictures.compare(product, network, work / "source", int(small.config.image_token_id))
    told = {"positions": config["visual"]["positions"], "pictures": found}
    (out / RESULT).write_text(json.dumps(told, indent=1, sort_keys=True) + "\n", "utf-8")
    worst = max(error for errors in found.values() for error in errors.values())
    log.note(f"pictures: largest logit error {worst:.1e} of the largest logit")

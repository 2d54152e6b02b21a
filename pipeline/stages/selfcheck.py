"""Architecture self-check: needs the config only, so it also guards models that the machine cannot load."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.build.stage import Input, Log, Stage
from pipeline.verify.applies import proves_text

STAGE = Stage(
    name="selfcheck",
    module="pipeline.stages.selfcheck",
    inputs=(Input("checkpoint", ("config.json", "*.py")),),
    config=("model.trust_remote_code", "target", "graph"),
    tools=("MNN", "torch", "transformers", "onnx", "numpy", "tokenizers", "safetensors"),
    code=("pipeline.mnn.runner", "pipeline.graph.towers"),
    warm=("pipeline.graph.quick_import",),
    memory=lambda recipe: 1200 << 20,
    applies=proves_text,
)


def run(config: Mapping[str, Any], inputs: Mapping[str, Path], out: Path, log: Log) -> None:
    """Write `selfcheck.json`: errors relative to max|logit|. The limit is held by the gate, so it may change freely.

    Where the graph leaves something out with consent (`graph.allow_approximate`), `error` is against Hugging Face
    without it too, so that the limit still guards all the rest; `approximation_error` is against the model as it is.
    """
    import torch

    from pipeline.graph import quick_import

    quick_import.load()
    from pipeline.verify import approximate, random_model, selfcheck, shrink
    from pipeline.verify.files import SELFCHECK
    from pipeline.verify.huggingface import load_config
    from pipeline.verify.shrink_encoders import plain_tokens

    torch.set_num_threads(1)
    model = config["model"]
    small = shrink.shrink(load_config(inputs["checkpoint"], trust_remote_code=bool(model["trust_remote_code"])))
    with tempfile.TemporaryDirectory(prefix="selfcheck-") as scratch:
        work = Path(scratch)
        network = random_model.random_model(small.config)
        random_model.write_folder(network, work / "source", inputs["checkpoint"])
        ids = selfcheck.random_tokens(int(small.config.get_text_config().vocab_size))
        ids = plain_tokens(small.config, ids)
        expected = selfcheck.reference_logits(network, ids)
        recipe = selfcheck.fp16_recipe(model, config["target"], config["graph"])
        found = selfcheck.engine_logits(selfcheck.build(work / "source", work, recipe), ids)
        left_out = selfcheck.approximations(work)
    told: dict[str, Any] = {"layers": small.layers, "scaled": small.scaled}
    if left_out:
        told |= {"approximations": left_out, "approximation_error": selfcheck.compare(expected, found)["error"]}
        with approximate.without_softcap(network):
            expected = selfcheck.reference_logits(network, ids)
    told |= selfcheck.compare(expected, found)
    (out / SELFCHECK).write_text(json.dumps(told, indent=1, sort_keys=True) + "\n", "utf-8")
    log.note(f"layers {small.layers}: largest logit error {told['error']:.1e} of the largest logit")

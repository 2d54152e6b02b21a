"""selftext: calibration text that the model writes itself (quant.calibration.text=self); the whole model in memory."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.build.stage import Input, Log, Stage
from pipeline.calibrate.applies import MODEL_CONFIG, calibrates, whole_memory

STAGE = Stage(
    name="selftext",
    module=__name__,
    inputs=(Input("source"), Input("adapter"), Input("checkpoint")),
    config=(*MODEL_CONFIG, "quant.calibration"),
    tools=("torch", "transformers", "tokenizers", "numpy"),
    warm=("torch", "transformers"),
    memory=whole_memory,
    applies=lambda recipe: calibrates(recipe) and recipe["quant"]["calibration"]["text"] == "self",
)


def run(config: Mapping[str, Any], inputs: Mapping[str, Path], out: Path, log: Log) -> None:
    """Write selftext.json: sequences of token ids."""
    from pipeline.calibrate import selftext
    from pipeline.calibrate.prepare import open_stream
    from pipeline.verify.huggingface import load_tokenizer, stop_ids

    calibration = config["quant"]["calibration"]
    tokenizer = load_tokenizer(inputs["checkpoint"], trust_remote_code=bool(config["model"].get("trust_remote_code")))
    stream = open_stream(config, inputs)
    stream.load("")
    stops = stop_ids(stream.model, tokenizer)
    count, length, seed = (int(calibration[key]) for key in ("sequences", "length", "seed"))
    written = selftext.write(stream.model, tokenizer, stops, count, length, seed, log.progress)
    (out / "selftext.json").write_text(json.dumps(written) + "\n", encoding="utf-8")
    log.note(f"{count} × {length} tokens; the first: {_excerpt(tokenizer, written[0])}")


def _excerpt(tokenizer: Any, ids: list[int]) -> str:
    return " ".join(str(tokenizer.decode(ids, skip_special_tokens=True)).split())[:160]

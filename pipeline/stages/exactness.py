"""exactness: with quant=source, the finished weights are the source's own, each of them, or nothing is published."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.build.stage import Input, Log, Stage

FACTS = "exactness.json"


def applies(recipe: Mapping[str, Any]) -> bool:
    """Whether any linear may keep the source's codes, and the product is verified."""
    quant = recipe["quant"]
    chosen = (quant.get("algorithm"), *(rule.get("algorithm") for rule in quant.get("rules") or []))
    return "source" in chosen and bool(recipe["verify"]["mode"] != "off")


STAGE = Stage(
    name="exactness",
    module=__name__,
    inputs=(
        Input("source"),
        Input("adapter"),
        Input("graph", ("layout.json",)),
        Input("weights", ("llm.mnn.weight", "weights.json")),
        Input("link", ("llm.mnn.json",)),
    ),
    config=("adapter.mode", "adapter.weight", "quant.scale_bits"),
    tools=("numpy", "ml_dtypes"),
    memory=lambda recipe: 512 << 20,
    applies=applies,
)


def run(config: Mapping[str, Any], inputs: Mapping[str, Path], out: Path, log: Log) -> None:
    """Writes `exactness.json`: by linear, the source's types and how it is stored. Raises StageFailed for a weight
    that is not what the source says."""
    from pipeline.checkpoint.open import open_model
    from pipeline.verify.exactness import check_all
    from pipeline.weights.layout import load_layout

    told = check_all(
        inputs["weights"] / "llm.mnn.weight",
        json.loads((inputs["link"] / "llm.mnn.json").read_text(encoding="utf-8")),
        json.loads((inputs["weights"] / "weights.json").read_text(encoding="utf-8")),
        load_layout(inputs["graph"] / "layout.json"),
        open_model(config, inputs),
        int(config["quant"]["scale_bits"]) == 16,
    )
    (out / FACTS).write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    counts = Counter((facts["source"], facts["stored"]) for facts in told.values())
    log.note("; ".join(f"{count} linears of {source}: {stored}" for (source, stored), count in sorted(counts.items())))

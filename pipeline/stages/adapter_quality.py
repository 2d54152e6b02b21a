"""The gate of split adapters: each, on the engine beside the base, is held to what PEFT computes."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.build.stage import Input, Log, Stage

SHIPPED = ("link", "weights", "embedding", "config", "tokenizer", "adapters")

STAGE = Stage(
    name="adapter_quality",
    module=__name__,
    inputs=(
        Input("link", ("llm.mnn",)),
        Input("weights", ("llm.mnn.weight",)),
        Input("embedding", ("embeddings_*", "embedding.json")),
        Input("tokenizer", ("tokenizer.mtok", "tokenizer.txt")),
        Input("config", ("config.json", "llm_config.json")),
        Input("adapters"),
        Input("reference", ("reference.json", "logits.npy")),
        Input("adapter_reference"),
        Input("split"),
    ),
    config=("quant.bits", "verify.thresholds", "verify.threads", "verify.max_new_tokens"),
    tools=("MNN", "numpy"),
    code=("pipeline.mnn.runner",),
    memory=lambda recipe: 1 << 30,
    applies=lambda recipe: bool(recipe["adapter"]["mode"] == "split" and recipe["verify"]["mode"] != "off"),
)


def run(config: Mapping[str, Any], inputs: Mapping[str, Path], out: Path, log: Log) -> None:
    """Writes `report.json` (by adapter), then raises StageFailed if one of them fails a check."""
    from pipeline.verify import adapters, gate, product

    verify, bits = config["verify"], int(config["quant"]["bits"])
    names = sorted(product.read_json(inputs["adapters"] / "facts/adapters.json"))
    with tempfile.TemporaryDirectory(prefix="product-") as scratch:
        subject = adapters.Subject(
            folder=product.assemble([inputs[name] for name in SHIPPED], Path(scratch) / "product"),
            bits=bits,
            limits=gate.limits_for(verify["thresholds"], bits),
            threads=int(verify["threads"]),
            max_new_tokens=int(verify["max_new_tokens"]),
            reference=inputs["reference"],
            adapters=inputs["adapter_reference"],
        )
        reports = adapters.judge(subject, names)
    path = adapters.write_reports(reports, out)
    for name, report in reports.items():
        log.note(f"{name}: {gate.summary(report)}")
    for report in reports.values():
        gate.enforce(report, path)

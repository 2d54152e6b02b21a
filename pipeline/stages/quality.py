"""The gate: the product's files, as they will be shipped, run on the engine and are held to the recipe's thresholds."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.build.stage import Input, Log, Stage
from pipeline.verify.applies import proves_text

SHIPPED = ("link", "weights", "embedding", "config", "tokenizer")

STAGE = Stage(
    name="quality",
    module="pipeline.stages.quality",
    inputs=(
        Input("link", ("llm.mnn",)),
        Input("weights", ("llm.mnn.weight", "weights.json")),
        Input("embedding", ("embeddings_*", "embedding.json")),
        Input("tokenizer", ("tokenizer.mtok", "tokenizer.txt", "tokenizer.json")),
        Input("parity", ("parity.json",)),
        Input("config", ("config.json", "llm_config.json")),
        Input("reference"),
        Input("selfcheck", ("selfcheck.json",)),
    ),
    config=(
        *("quant.bits", "target.accept_tokenizer_limits"),
        *("verify.mode", "verify.thresholds", "verify.threads", "verify.max_new_tokens"),
    ),
    tools=("MNN", "numpy"),
    code=("pipeline.mnn.runner",),
    memory=lambda recipe: 1 << 30,
    applies=proves_text,
)


def run(config: Mapping[str, Any], inputs: Mapping[str, Path], out: Path, log: Log) -> None:
    """Write `report.json`, then raise StageFailed if the gate says no. Raises UserError for bits without thresholds."""
    from pipeline.verify import gate, product
    from pipeline.verify.tokenizer import parity_checks

    verify, bits = config["verify"], int(config["quant"]["bits"])
    with tempfile.TemporaryDirectory(prefix="product-") as scratch:
        subject = product.Subject(
            folder=product.assemble([inputs[name] for name in SHIPPED], Path(scratch) / "product"),
            bits=bits,
            limits=gate.limits_for(verify["thresholds"], bits),
            threads=int(verify["threads"]),
            max_new_tokens=int(verify["max_new_tokens"]),
            reference=product.read_json(inputs["reference"] / "reference.json"),
            reference_folder=inputs["reference"],
            separate_table=product.read_json(inputs["embedding"] / "embedding.json")["mode"] == "separate",
        )
        weights = product.read_json(inputs["weights"] / "weights.json")
        tokenizer = product.read_json(inputs["tokenizer"] / "tokenizer.json")
        selfcheck = product.read_json(inputs["selfcheck"] / "selfcheck.json")
        report = product.judge(subject, weights, tokenizer, selfcheck, str(verify["mode"]))
    parity = product.read_json(inputs["parity"] / "parity.json")
    report.checks += parity_checks(parity, bool(config.get("target", {}).get("accept_tokenizer_limits", False)))
    path = report.write(out)
    log.note(gate.summary(report))
    gate.enforce(report, path)

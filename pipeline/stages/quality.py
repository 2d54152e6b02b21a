"""The gate: the product's files, as they will be shipped, run on the engine and are held to the recipe's thresholds."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.build.stage import Input, Log, Stage
from pipeline.verify.applies import proves_text

if TYPE_CHECKING:
    from pipeline.verify.gate import Check
    from pipeline.verify.subject import Subject

SHIPPED = ("link", "weights", "embedding", "config", "tokenizer")

ENCODERS = tuple(f"{kind}_{part}" for kind in ("visual", "audio") for part in ("link", "weights", "graph"))

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
        Input("visual_graph", ("visual.json",)),
        Input("visual_link", ("visual.mnn",)),
        Input("visual_weights", ("visual.mnn.weight", "weights.json")),
        Input("visual_selfcheck", ("pictures.json",)),
        Input("audio_graph", ("audio.json",)),
        Input("audio_link", ("audio.mnn",)),
        Input("audio_weights", ("audio.mnn.weight", "weights.json")),
        Input("audio_selfcheck", ("sounds.json",)),
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
    from pipeline.verify.subject import Subject
    from pipeline.verify.tokenizer import parity_checks

    verify, bits = config["verify"], int(config["quant"]["bits"])
    with tempfile.TemporaryDirectory(prefix="product-") as scratch:
        subject = Subject(
            folder=product.assemble(_shipped(inputs), Path(scratch) / "product"),
            bits=bits,
            limits=gate.limits_for(verify["thresholds"], bits),
            threads=int(verify["threads"]),
            max_new_tokens=int(verify["max_new_tokens"]),
            reference=product.read_json(inputs["reference"] / "reference.json"),
            reference_folder=inputs["reference"],
            separate_table=product.read_json(inputs["embedding"] / "embedding.json")["mode"] == "separate",
            accept_tokenizer_limits=bool(config.get("target", {}).get("accept_tokenizer_limits", False)),
        )
        weights = product.read_json(inputs["weights"] / "weights.json")
        tokenizer = product.read_json(inputs["tokenizer"] / "tokenizer.json")
        selfcheck = product.read_json(inputs["selfcheck"] / "selfcheck.json")
        report = product.judge(subject, weights, tokenizer, selfcheck, str(verify["mode"]))
        if "visual_link" in inputs and report.passed:  # a file that is too short would kill the engine
            report.checks += _pictures(inputs, subject)
        if "audio_link" in inputs and report.passed:
            report.checks += _sounds(inputs, subject)
    parity = product.read_json(inputs["parity"] / "parity.json")
    report.checks += parity_checks(parity, bool(config.get("target", {}).get("accept_tokenizer_limits", False)))
    path = report.write(out)
    log.note(gate.summary(report))
    gate.enforce(report, path)


def _pictures(inputs: Mapping[str, Path], subject: Subject) -> list[Check]:
    from pipeline.verify import picture_checks, product

    told = product.read_json(inputs["visual_selfcheck"] / "pictures.json")
    weights = product.read_json(inputs["visual_weights"] / "weights.json")
    limit = float(subject.limits["selfcheck_logit_error"])
    return [
        *picture_checks.selfcheck_checks(told, limit),
        *picture_checks.product_checks(subject.folder, weights, subject.threads),
    ]


def _sounds(inputs: Mapping[str, Path], subject: Subject) -> list[Check]:
    from pipeline.verify import product, sound_checks

    told = product.read_json(inputs["audio_selfcheck"] / "sounds.json")
    weights = product.read_json(inputs["audio_weights"] / "weights.json")
    limits = (float(subject.limits[name]) for name in ("selfcheck_logit_error", "selfcheck_sound_error"))
    return [
        *sound_checks.selfcheck_checks(told, *limits),
        *sound_checks.product_checks(subject.folder, weights, subject.threads),
    ]


def _shipped(inputs: Mapping[str, Path]) -> list[Path]:
    return [inputs[name] for name in (*SHIPPED, *ENCODERS) if name in inputs]

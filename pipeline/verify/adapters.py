"""Split adapters: what PEFT says of them on the Hugging Face model, and the engine's answers held against it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.build.stage import Log
from pipeline.mnn.runner import Engine
from pipeline.verify import metrics
from pipeline.verify.files import EXACT_LOGITS, LOGITS, REFERENCE, REPORT
from pipeline.verify.gate import Check, Report, at_least, at_most, equal, not_run
from pipeline.verify.product import EXACT, read_json

ANSWERS = "answers.json"
POSITIONS = 64
# What an adapter changes, (adapter − base), is compared between engine and PEFT: ‖difference‖ / ‖PEFT's change‖, float
# activations. Limits by the base's bits; an adapter that misses one of seven linears is off by more than the first ones
# (docs/adapters.md has the figures).
EFFECT = {16: 0.01, 8: 0.1, 7: 0.15, 6: 0.25, 5: 0.4, 4: 0.6}
Logits = NDArray[np.float32]


@dataclass(frozen=True)
class Subject:
    """What is judged. folder: base and adapters as shipped. reference, adapters: the outputs of the two stages."""

    folder: Path
    bits: int
    limits: Mapping[str, Any]
    threads: int
    max_new_tokens: int
    reference: Path
    adapters: Path

    def ids(self) -> list[int]:
        """The tokens at whose positions base and adapters are compared."""
        return list(read_json(self.reference / REFERENCE)["evaluation"]["sequences"][0][:POSITIONS])


def add_references(
    model: Any,
    tokenizer: Any,
    folders: Sequence[tuple[str, Path, float]],
    reference: Mapping[str, Any],
    limit: int,
    out: Path,
    log: Log,
) -> None:
    """Logits and answer of every adapter on `model`, PEFT's layers unmerged; `model` ends with matrices of fp16."""
    from pipeline.verify import huggingface

    ids = reference["evaluation"]["sequences"][0][:POSITIONS]
    answers: dict[str, Any] = {}
    for number, (name, path, weight) in enumerate(folders):
        (out / name).mkdir()
        with huggingface.adapted(model, path, weight) as peft:
            np.save(out / name / LOGITS, huggingface.sequence_logits(peft, ids))
            answer = huggingface.greedy(peft, tokenizer, reference["prompt"], reference["stop_ids"], limit)
            answers[name] = asdict(answer)
        log.progress(number + 1, 2 * len(folders), "adapter references")
    huggingface.round_matrices(model)
    for number, (name, path, weight) in enumerate(folders):
        with huggingface.adapted(model, path, weight) as peft:
            np.save(out / name / EXACT_LOGITS, huggingface.sequence_logits(peft, ids))
        log.progress(len(folders) + number + 1, 2 * len(folders), "adapter references")
    write_answers(answers, out)


def write_answers(answers: Mapping[str, Any], out: Path) -> None:
    """`answers.json`; {} for a model that is too large for a reference."""
    (out / ANSWERS).write_text(json.dumps(answers, ensure_ascii=False, sort_keys=True, indent=1) + "\n", "utf-8")


def judge(subject: Subject, names: Iterable[str]) -> dict[str, Report]:
    """A report by adapter. Base and all adapters live in one engine, switched between; then each through its NAME.json.

    The base must answer afterwards, bit for bit, what it answered before.
    """
    reports = {name: Report("adapter") for name in names}
    answers, ids = read_json(subject.adapters / ANSWERS), subject.ids()
    shown: dict[str, Logits] = {}
    with Engine(subject.folder, {"thread_num": subject.threads}) as engine:
        before = engine.logits(ids)
        for name, report in reports.items():
            engine.select(f"{name}.mnn")
            shown[name] = engine.logits(ids)
            report.checks += _compared(subject, name, shown[name], answers, report)
            report.checks += _answer(engine, subject, answers.get(name), report)
            engine.select()
            same = bool(np.array_equal(engine.logits(ids), before))
            report.checks.append(equal("base after the adapter", "as before" if same else "other logits", "as before"))
    for name, report in reports.items():
        with Engine(subject.folder / f"{name}.json", {"thread_num": subject.threads}) as engine:
            same = bool(np.array_equal(engine.logits(ids), shown[name]))
        report.checks.append(equal(f"{name}.json", "as switched to" if same else "other logits", "as switched to"))
    if answers:
        _check_effects(subject, reports, ids)
    return reports


def write_reports(reports: Mapping[str, Report], out: Path) -> Path:
    """`report.json`: adapter → report."""
    path = out / REPORT
    values = {name: report.as_dict() for name, report in reports.items()}
    path.write_text(json.dumps(values, indent=1, ensure_ascii=False, allow_nan=False, sort_keys=True) + "\n", "utf-8")
    return path


def _compared(subject: Subject, name: str, found: Logits, answers: Mapping[str, Any], report: Report) -> list[Check]:
    """KL divergence from PEFT's model, with the limits that the base is held to."""
    if name not in answers:
        return [not_run("mean KL divergence from PEFT", "the model is too large for a reference")]
    agreement = metrics.compare_logits(np.load(subject.adapters / name / LOGITS), found)
    report.figures["logits"] = agreement.as_dict()
    return [
        at_most("mean KL divergence from PEFT", agreement.kld_mean, subject.limits.get("max_kld")),
        at_least("top-1 agreement with PEFT", agreement.top1, _for_few(subject.limits.get("min_top1"), len(found))),
    ]


def _for_few(share: float | None, positions: int) -> float | None:
    """The limit of a share, meant for hundreds of positions, less two standard errors of so few."""
    return None if share is None else share - 2 * math.sqrt(share * (1 - share) / positions)


def _answer(engine: Engine, subject: Subject, expected: Mapping[str, Any] | None, report: Report) -> list[Check]:
    ids = engine.generate(read_json(subject.reference / REFERENCE)["prompt"], subject.max_new_tokens)
    stopped = ids[-1] in engine.product.stop_ids
    text = engine.detokenize(ids[:-1] if stopped else ids)
    report.figures["answer"] = text
    checks = [Check("greedy answer", text, "valid text", bool(text.strip()))]
    if expected is not None and subject.limits.get("greedy_equal"):
        checks.append(equal("greedy tokens", "equal" if ids == expected["ids"] else "different", "equal"))
    return checks


def _check_effects(subject: Subject, reports: Mapping[str, Report], ids: Sequence[int]) -> None:
    """With float activations: what each adapter changes is what it changes in PEFT; for fp16, its very logits."""
    truth = np.load(subject.reference / LOGITS, mmap_mode="r")[0][: len(ids)]
    with Engine(subject.folder, {**EXACT, "thread_num": subject.threads}) as engine:
        base = engine.logits(ids)
        for name, report in reports.items():
            engine.select(f"{name}.mnn")
            found = engine.logits(ids)
            error = effect_error(np.load(subject.adapters / name / LOGITS) - truth, found - base)
            report.figures["effect_error"] = error
            report.checks.append(at_most("error of the adapter's effect", error, EFFECT.get(subject.bits)))
            limit = subject.limits.get("max_logit_error_absolute")
            if limit is not None:
                exact = np.load(subject.adapters / name / EXACT_LOGITS)
                worst = float(np.abs(exact - found).max())
                report.checks.append(at_most("logit error at memory=normal, precision=high", worst, float(limit)))


def effect_error(expected: Logits, found: Logits) -> float:
    """‖found − expected‖ / ‖expected‖ over all positions and tokens, each position's mean taken out (softmax does not
    see it)."""
    centred = [change - change.mean(axis=-1, keepdims=True) for change in (expected, found)]
    norm = float(np.linalg.norm(centred[0]))
    return float(np.linalg.norm(centred[1] - centred[0])) / norm if norm else float("inf")

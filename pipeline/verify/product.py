"""The checks of a built product on the real engine: files, tokenizer, chat template, greedy answer, logits."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.mnn.runner import Engine
from pipeline.verify import approximate, metrics
from pipeline.verify.files import EXACT_LOGITS
from pipeline.verify.gate import Check, Report, at_least, at_most, equal, not_run
from pipeline.verify.subject import Subject

EXACT = {"memory": "normal", "precision": "high"}
PATIENCE = 4  # a quantised model may take so many times the reference's limit of tokens to come to its stop


def check_architecture(selfcheck: Mapping[str, Any], limits: Mapping[str, Any]) -> Check:
    """What the self-check measured: the largest logit error of a small random model, as a share of max|logit|."""
    error = float(selfcheck["error"])
    return at_most("architecture self-check, relative logit error", error, float(limits["selfcheck_logit_error"]))


def check_weights_file(folder: Path, weights: Mapping[str, Any]) -> Check:
    """The engine loads a weight file that is too short and talks nonsense: compare the size with weights.json."""
    size = (folder / "llm.mnn.weight").stat().st_size
    return equal("weight file size", size, int(weights["bytes"]))


def check_rounding(weights: Mapping[str, Any], limit: float | None) -> tuple[Check, dict[str, Any]]:
    """Relative error ‖W − W'‖ / ‖W‖ of each quantised tensor; the check is on the worst, the figures on all of them."""
    errors = {
        name: float(np.sqrt(linear["squared_error"] / linear["squared_norm"])) if linear["squared_norm"] else 0.0
        for name, linear in weights["linears"].items()
    }
    worst = max(errors, key=lambda name: errors[name])
    total = sum(linear["squared_error"] for linear in weights["linears"].values())
    norm = sum(linear["squared_norm"] for linear in weights["linears"].values())
    figures = {"relative_error": float(np.sqrt(total / norm)) if norm else 0.0, "worst": worst}
    return at_most("weight rounding error", errors[worst], limit, worst), figures


def check_tokens(
    engine: Engine, reference: Mapping[str, Any], prefix: Sequence[int], accept_limits: bool = False
) -> Check:
    """Token ids of every fixed text equal Hugging Face's; `prefix` are the ids that the product puts before a text.

    accept_limits: the recipe knows that the tokenizer format cannot say the model's rules: counted, without a limit.
    """
    differing = []
    for entry in reference["texts"]:
        ids = engine.tokenize(entry["text"])
        if ids != [*prefix, *entry["ids"]]:
            differing.append(_difference(entry["text"], ids, [*prefix, *entry["ids"]]))
    name, reason = "texts tokenised otherwise", "; ".join(differing[:3])
    return at_most(name, len(differing), None, reason) if accept_limits else equal(name, len(differing), 0, reason)


def check_templates(engine: Engine, reference: Mapping[str, Any], fallbacks: Sequence[str] = ()) -> list[Check]:
    """Rendered conversations, and the ids of the rendered text, equal Hugging Face's.

    fallbacks: why the product has, on request, another template than the model's: nothing to compare with.
    """
    checks = []
    if fallbacks:
        return [not_run("chat template", "; ".join(fallbacks))]
    for number, expected in enumerate(reference["templates"]):
        name = f"chat template, conversation {number + 1}"
        if expected["text"] is None:
            checks.append(not_run(name, expected["reason"]))
            continue
        text = engine.apply_template(expected["messages"])
        if text != expected["text"]:
            checks.append(equal(name, "different text", "equal text", _difference(name, text, expected["text"])))
            continue
        ids = engine.tokenize(text)
        reason = "" if ids == expected["ids"] else _difference(name, ids, expected["ids"])
        checks.append(equal(name, "different ids" if reason else "equal", "equal", reason))
    return checks


def check_answer(engine: Engine, subject: Subject) -> tuple[list[Check], str]:
    """The greedy answer with the product's own config: valid, stopped, and equal if asked."""
    expected = subject.reference["answer"]
    limit = subject.max_new_tokens if subject.limits.get("greedy_equal") else PATIENCE * subject.max_new_tokens
    ids = engine.generate(subject.reference["prompt"], limit)
    stops = set(engine.product.stop_ids)
    stopped = bool(ids) and ids[-1] in stops
    text = engine.detokenize(ids[:-1] if stopped else ids)
    valid = bool(text.strip()) and not ("\ufffd" in text and stopped)
    checks = [Check("greedy answer", text, "valid text", valid, "" if valid else "empty, or not UTF-8")]
    checks.append(_stop_check(stopped, limit, expected))
    if subject.limits.get("greedy_equal"):
        checks.append(_equality_check(ids, expected))
    return checks, text


def check_logits(engine: Engine, subject: Subject) -> tuple[list[Check], dict[str, Any]]:
    """KL divergence and top-1 agreement over the evaluation text, as the product's own config computes."""
    reference = subject.logits()
    if reference is None:
        reason = str(subject.reference["skipped"])
        return [not_run("mean KL divergence", reason), not_run("top-1 agreement", reason)], {}
    agreement = measure(engine, subject.reference["evaluation"]["sequences"], reference)
    checks = [
        at_most("mean KL divergence", agreement.kld_mean, subject.limits.get("max_kld")),
        at_least("top-1 agreement", agreement.top1, subject.limits.get("min_top1")),
    ]
    return checks, agreement.as_dict()


def check_exact_logits(subject: Subject) -> tuple[list[Check], dict[str, Any]]:
    """fp16: largest absolute logit error with float activations, against Hugging Face with fp16's weights.

    A second engine, because memory and precision are read at load.
    """
    name, limit = "logit error at memory=normal, precision=high", subject.limits.get("max_logit_error_absolute")
    if limit is None:
        return [], {}
    if subject.reference["logits"] is None:
        return [not_run(name, str(subject.reference["skipped"]))], {}
    if subject.separate_table and not subject.reference["bfloat16_table"]:
        return [not_run(name, "the separate embedding is stored as bfloat16, the source's table has more digits")], {}
    reference = np.load(subject.reference_folder / EXACT_LOGITS, mmap_mode="r")
    with Engine(subject.folder, {**EXACT, "thread_num": subject.threads}) as engine:
        ids = subject.reference["evaluation"]["sequences"][0][: len(reference)]
        agreement = metrics.compare_logits(reference, engine.logits(ids))
    rounded = "reference with weights rounded to fp16" if subject.reference["rounded"] else ""
    return [at_most(name, agreement.max_error, float(limit), rounded)], agreement.as_dict()


def measure(engine: Engine, sequences: Sequence[Sequence[int]], reference: metrics.Logits) -> metrics.Agreement:
    """The engine's logits of every sequence against the reference's, pooled over all positions."""
    parts = [
        metrics.compare_logits(expected, engine.logits(ids)) for ids, expected in zip(sequences, reference, strict=True)
    ]
    return metrics.pooled(parts)


def judge(
    subject: Subject,
    weights: Mapping[str, Any],
    tokenizer: Mapping[str, Any],
    selfcheck: Mapping[str, Any],
    mode: str,
) -> Report:
    """Every check of the product, cheap ones first; native code sees the files only after their sizes are checked."""
    report = Report(mode, [check_architecture(selfcheck, subject.limits)], {"selfcheck": selfcheck})
    if (left_out := approximate.left_out(selfcheck, subject.reference)) is not None:
        report.checks += left_out.checks()
        report.figures["approximation"] = left_out.cost
        subject = left_out.widened(subject)
    size = check_weights_file(subject.folder, weights)
    rounding, figures = check_rounding(weights, subject.limits.get("max_tensor_error"))
    report.checks += [size, rounding]
    report.figures["weights"] = figures
    if not size.passed:
        return report
    with Engine(subject.folder, {"thread_num": subject.threads}) as engine:
        prefix, accept = tokenizer["prefix"], subject.accept_tokenizer_limits
        report.checks.append(check_tokens(engine, subject.reference, prefix, accept))
        report.checks += check_templates(engine, subject.reference, tokenizer.get("fallbacks", ()))
        answer, report.figures["answer"] = check_answer(engine, subject)
        logits, report.figures["logits"] = check_logits(engine, subject)
        report.checks += answer + logits
    exact, report.figures["exact_logits"] = check_exact_logits(subject)
    report.checks += exact
    return report


def assemble(folders: Sequence[Path], target: Path) -> Path:
    """Links to the files of the stages' outputs, in one folder: what the engine opens as a product."""
    target.mkdir(parents=True, exist_ok=True)
    for folder in folders:
        for path in sorted(folder.iterdir()):
            if path.is_file() and not (target / path.name).exists():
                (target / path.name).symlink_to(path.resolve())
    return target


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object that a stage wrote."""
    value: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return value


def _stop_check(stopped: bool, limit: int, expected: Mapping[str, Any] | None) -> Check:
    name, value = "answer ends with a stop token", "yes" if stopped else f"not within {limit} tokens"
    if stopped:
        return Check(name, value, "yes", True)
    if expected is None:
        return not_run(name, "there is no reference answer to say how long the model talks")
    if not expected["stopped"]:
        return not_run(name, f"Hugging Face's own answer does not end within {len(expected['ids'])} tokens")
    return Check(name, value, "yes", False)


def _equality_check(ids: Sequence[int], expected: Mapping[str, Any] | None) -> Check:
    name = "greedy tokens"
    if expected is None:
        return not_run(name, "the reference was not loaded")
    same = list(ids) == expected["ids"]
    return equal(
        name, "equal" if same else "different", "equal", "" if same else _difference(name, ids, expected["ids"])
    )


def _difference(what: str, found: Sequence[Any], expected: Sequence[Any]) -> str:
    """Where two sequences part, with a little of both."""
    at = next(
        (n for n, (a, b) in enumerate(zip(found, expected, strict=False)) if a != b), min(len(found), len(expected))
    )
    return f"{what!r} from position {at}: {found[at : at + 8]!r} instead of {expected[at : at + 8]!r}"

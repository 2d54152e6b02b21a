"""What each engine version made of a product: judged against Hugging Face's logits, a table, kept in the manifest.

That a version loads and answers proves nothing: 3.4 and 3.5 talk nonsense about products that they half understand.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import StageFailed, UserError
from pipeline.mnn.versions.trial import Logits, Questions, Trial
from pipeline.runtime.key import version
from pipeline.verify.metrics import compare_logits

MANIFEST = "manifest.json"
# Where a version failed, in a person's words, by the step that it had begun.
_FAILED = {
    "import": "no language model",
    "load": "does not load",
    "answer": "fails to answer",
    "answered": "fails to answer",
    "logits": "fails to compute logits",
    "done": "fails at the end",
}


@dataclass(frozen=True)
class Limits:
    """The gate's limits for the product's bits; None = not limited."""

    max_kld: float | None = None
    min_top1: float | None = None


@dataclass(frozen=True)
class Row:
    """One version. verdict: "right", "wrong" (answers, but other logits), or where it failed.

    kld_mean: nats; top1: share of positions; relative_error: of the largest |logit|; None where there are no logits.
    """

    version: str
    verdict: str
    failure: str = ""
    answer: str | None = None
    kld_mean: float | None = None
    top1: float | None = None
    relative_error: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """What the manifest keeps, six digits of every figure."""
        kept = {key: value for key, value in asdict(self).items() if key != "version" and value not in (None, "")}
        return {key: float(f"{value:.6g}") if isinstance(value, float) else value for key, value in kept.items()}


def judge(trial: Trial, reference: Logits, limits: Limits) -> Row:
    """The verdict on one trial. reference: float32 [evaluation, vocabulary]."""
    if trial.failure or trial.logits is None:
        return Row(trial.version, _FAILED[trial.step], trial.failure, trial.text)
    try:
        agreement = compare_logits(reference, trial.logits)
    except ValueError as error:  # other shapes, or values that are not finite
        return Row(trial.version, "wrong", str(error), trial.text)
    figures = (agreement.kld_mean, agreement.top1, agreement.relative_error)
    right = (limits.max_kld is None or figures[0] <= limits.max_kld) and (
        limits.min_top1 is None or figures[1] >= limits.min_top1
    )
    return Row(trial.version, "right" if right else "wrong", "", trial.text, *figures)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a product. Raises UserError if the folder has none."""
    try:
        found = json.loads((folder / MANIFEST).read_text("utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(
            f"{folder} holds no product with a manifest", "give a folder that `doit export` wrote"
        ) from None
    except ValueError as error:
        raise UserError(f"{folder / MANIFEST} is not JSON: {error}", "export the product again") from None
    if not isinstance(found, dict):
        raise UserError(f"{folder / MANIFEST} is not a JSON object", "export the product again")
    return found


def limits_of(manifest: Mapping[str, Any]) -> Limits:
    """The gate's limits that the product was published under."""
    config = manifest["config"]
    found = config["verify"]["thresholds"].get(str(config["quant"]["bits"]), {})
    return Limits(found.get("max_kld"), found.get("min_top1"))


def questions_of(reference: Mapping[str, Any], manifest: Mapping[str, Any]) -> Questions:
    """What the reference stage asked Hugging Face."""
    verify = manifest["config"]["verify"]
    return Questions(
        reference["prompt"], reference["evaluation"]["sequences"][0], verify["max_new_tokens"], verify["threads"]
    )


def keep(folder: Path, rows: Sequence[Row]) -> None:
    """Adds the rows to the manifest's `engines`, replacing the file in one step; every other byte of it stays."""
    manifest = read_manifest(folder)
    manifest["engines"] = {**manifest.get("engines", {}), **{row.version: row.as_dict() for row in rows}}
    scratch = folder / f".{MANIFEST}.{os.getpid()}"
    try:
        scratch.write_text(json.dumps(manifest, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        os.replace(scratch, folder / MANIFEST)
    except OSError as error:
        scratch.unlink(missing_ok=True)
        raise StageFailed(f"{folder / MANIFEST} cannot be written: {error.strerror}") from None


def cells(rows: Sequence[Row]) -> list[list[str]]:
    """The table with its head, for people."""
    head = ["engine", "verdict", "KL", "top-1", "logit error", "answer"]
    return [head, *([row.version, row.verdict, *_figures(row), _answer(row)] for row in rows)]


def _figures(row: Row) -> tuple[str, str, str]:
    if row.kld_mean is None or row.top1 is None or row.relative_error is None:
        return "", "", ""
    return f"{row.kld_mean:.4f}", f"{row.top1:.1%}", f"{row.relative_error:.2g}"


def _answer(row: Row) -> str:
    if row.answer is None:
        return row.failure
    text = " ".join(row.answer.split())
    return f"“{text if len(text) <= 48 else text[:47] + '…'}”"


def broken_floor(rows: Sequence[Row], floor: str) -> list[str]:
    """Versions from the product's floor on that do not run it right: "3.6.0 (wrong)"."""
    bound = [row for row in rows if version(row.version) >= version(floor)]
    return [f"{row.version} ({row.verdict})" for row in bound if row.verdict != "right"]

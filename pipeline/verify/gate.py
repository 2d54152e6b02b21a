"""Checks, the report that lists them, and the verdict. A check passes, fails or did not run."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pipeline.errors import StageFailed, UserError
from pipeline.verify.files import REPORT


@dataclass(frozen=True)
class Check:
    """One question put to the product. passed None: it did not run, and `reason` says why.

    value, limit: figures or short texts, as a person wants to read them; limit None: reported, not limited.
    """

    name: str
    value: Any
    limit: Any
    passed: bool | None
    reason: str = ""


def at_most(name: str, value: float, limit: float | None, reason: str = "") -> Check:
    """value ≤ limit. A value that is not a number never passes; without a limit it only has to be a number."""
    return Check(name, value, limit, not math.isnan(value) and (limit is None or value <= limit), reason)


def at_least(name: str, value: float, limit: float | None, reason: str = "") -> Check:
    """value ≥ limit, on the same terms as `at_most`."""
    return Check(name, value, limit, not math.isnan(value) and (limit is None or value >= limit), reason)


def equal(name: str, value: Any, expected: Any, reason: str = "") -> Check:
    """value == expected; `reason` names the first difference."""
    return Check(name, value, expected, bool(value == expected), reason)


def not_run(name: str, reason: str) -> Check:
    """A check that this product, recipe or machine does not allow; it appears in the report all the same."""
    return Check(name, None, None, None, reason)


@dataclass
class Report:
    """All checks of one product, in the order they ran, and the figures that people compare products by."""

    mode: str
    checks: list[Check] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)

    @property
    def failed(self) -> list[Check]:
        return [check for check in self.checks if check.passed is False]

    @property
    def passed(self) -> bool:
        """True if nothing failed and at least one check ran: an empty report proves nothing."""
        return not self.failed and any(check.passed for check in self.checks)

    def as_dict(self) -> dict[str, Any]:
        return {
            "format": 1,
            "mode": self.mode,
            "passed": self.passed,
            "checks": [_json_safe(asdict(check)) for check in self.checks],
            "figures": _json_safe(self.figures),
        }

    def write(self, folder: Path) -> Path:
        """Write `report.json`; bytes depend on the content only."""
        path = folder / REPORT
        path.write_text(json.dumps(self.as_dict(), indent=1, ensure_ascii=False, allow_nan=False) + "\n", "utf-8")
        return path


def enforce(report: Report, path: Path) -> None:
    """Raise StageFailed, one line that names check, value, limit and the report, if the gate says no."""
    if report.passed:
        return
    if not report.failed:
        raise StageFailed(f"verification proved nothing: no check ran (report: {path})", "look at the report's reasons")
    first = report.failed[0]
    others = f" and {len(report.failed) - 1} more" if len(report.failed) > 1 else ""
    limit = "" if first.limit is None else f", limit {_shown(first.limit)}"
    reason = f" ({_short(first.reason, 200)})" if first.reason else ""
    raise StageFailed(
        f"verification failed: {first.name} = {_shown(first.value)}{limit}{reason}{others}; report: {path}",
        "choose a gentler quant, or read the report before you raise a limit under verify.thresholds",
    )


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else repr(_short(value)) if isinstance(value, str) else str(value)


def _json_safe(value: Any) -> Any:
    """Strict JSON has no NaN or infinity: say them as text, so that every reader can load a bad product's report."""
    if isinstance(value, Mapping):
        return {key: _json_safe(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_json_safe(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def limits_for(thresholds: Mapping[str, Any], bits: int) -> dict[str, Any]:
    """The limits that conf/verify gives for weights of `bits` bits. Raises UserError if it gives none."""
    if str(bits) not in thresholds:
        known = ", ".join(sorted(thresholds, key=int)) or "none"
        raise UserError(
            f"verify.thresholds has limits for {known} bits, not for {bits}", f"add verify.thresholds.{bits}"
        )
    return dict(thresholds[str(bits)])


def summary(report: Report) -> str:
    """One line of figures for the table of stages."""
    ran = [check for check in report.checks if check.passed is not None]
    told = [f"{len(ran) - len(report.failed)} of {len(ran)} checks passed"]
    if skipped := [check.name for check in report.checks if check.passed is None]:
        told.append(f"{len(skipped)} not run ({_short(', '.join(skipped), 100)})")
    logits = report.figures.get("logits")
    if logits:
        told.append(f"KL {logits['kld_mean']:.4g}, top-1 {logits['top1']:.1%}")
    if report.figures.get("answer"):
        told.append(f"answer “{_short(str(report.figures['answer']))}”")
    return "; ".join(told)


def _short(text: str, width: int = 60) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= width else flat[: width - 1] + "…"

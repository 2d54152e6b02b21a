"""The two ways in which a request can end badly, each one line for a person (never a traceback).

Exit codes: 0 success, 1 a stage or the gate failed (`StageFailed`), 3 the request was wrong (`UserError`).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class PipelineError(Exception):
    """A failure that a person reads as one line. `str(error)` is that line."""

    exit_code = 1


class UserError(PipelineError):
    """The request cannot be carried out as written: unknown name, missing path, impossible combination.

    message: what is wrong and what was expected. next_step: what to type or change, as an imperative sentence.
    """

    exit_code = 3

    def __init__(self, message: str, next_step: str = "") -> None:
        super().__init__(f"{message} → {next_step}" if next_step else message)
        self.message = message
        self.next_step = next_step


class StageFailed(PipelineError):
    """A stage began and could not finish: damaged input, disk full, native crash, a gate that said no."""

    exit_code = 1

    def __init__(self, message: str, next_step: str = "") -> None:
        super().__init__(f"{message} → {next_step}" if next_step else message)
        self.message = message
        self.next_step = next_step


def nearest(name: str, known: Iterable[str]) -> str:
    """" Did you mean 'x'?" for the known name closest to `name`, or the empty string."""
    match = difflib.get_close_matches(name, list(known), 1, 0.4)
    return f" Did you mean '{match[0]}'?" if match else ""

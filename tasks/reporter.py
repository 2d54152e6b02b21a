"""doit's reporter: says nothing of tasks (stages speak for themselves), prints failures and the end of the run."""

from __future__ import annotations

import sys
from typing import Any

from doit.exceptions import BaseFail
from doit.reporter import ZeroReporter

from tasks import failures


class Reporter(ZeroReporter):  # type: ignore[misc]
    """One line for each failure; exit code 3 if the request was wrong."""

    desc = "stages, failures and a summary"

    def __init__(self, outstream: Any, options: Any) -> None:
        super().__init__(outstream, options)
        self._bugs: list[str] = []

    def add_failure(self, task: Any, fail: BaseFail) -> None:
        """Only what no action of ours reported itself: a bug, with its traceback."""
        if fail.report and fail.get_name() != "UnmetDependency":
            self._bugs.append(f"{task.name}: {fail.get_msg()}")

    def complete_run(self) -> None:
        """Raises SystemExit with the exit code, which doit has no way to be told."""
        from tasks.session import started
        from tasks.summary import summarise

        if (session := started()) is not None:
            summarise(session)
        sys.stdout.flush()
        for text in (*self._bugs, *(f"{line}\n" for line in failures.lines())):
            sys.stderr.write(text)
        code = failures.exit_code() or (1 if self._bugs else 0)
        if code:
            raise SystemExit(code)

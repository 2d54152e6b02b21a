"""doit's reporter: says nothing of tasks (the stages speak for themselves), prints failures and the end of the export."""

from __future__ import annotations

import sys
from typing import Any

from doit.exceptions import BaseFail
from doit.reporter import ZeroReporter


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
        for text in self._bugs:
            sys.stderr.write(text)
        from tasks.session import session

        code = 0
        if session.cache_info().currsize:
            from tasks.summary import finish

            code = finish(session())
        if self._bugs or code:
            sys.stdout.flush()
            raise SystemExit(code or 1)

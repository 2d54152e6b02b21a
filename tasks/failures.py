"""What went wrong in this run, for the reporter: doit itself knows neither our exit codes nor our one line."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

from doit.exceptions import TaskFailed

from pipeline.errors import PipelineError, UserError
from tasks.request import BadRequest

Task = dict[str, Any]

FAILURES: dict[str, PipelineError] = {}


def guarded(name: str, action: Callable[..., object]) -> Callable[..., Any]:
    """A doit action with `action`'s signature: a PipelineError becomes a failed task, a bug stays an exception.

    A recipe that is refused only now (doit's InvalidTask is a bug to doit once actions run) is such an error as well.
    """

    @functools.wraps(action)
    def run(*arguments: Any, **options: Any) -> Any:
        try:
            action(*arguments, **options)
        except (PipelineError, BadRequest) as error:
            FAILURES[name] = error if isinstance(error, PipelineError) else UserError(str(error))
            return TaskFailed(str(error), report=False)
        return True

    return run


def loading(creator: Callable[[], Iterator[Task]]) -> Callable[[], Iterator[Task]]:
    """A task creator whose errors doit prints as one line, with exit code 3, instead of a traceback."""

    @functools.wraps(creator)
    def create() -> Iterator[Task]:
        try:
            yield from creator()
        except PipelineError as error:
            raise BadRequest(str(error)) from None

    return create


def lines() -> list[str]:
    """One line for each different failure."""
    return [f"ERROR: {text}" for text in dict.fromkeys(map(str, FAILURES.values()))]


def exit_code() -> int:
    """0, 3 if a request was wrong, else 1."""
    if not FAILURES:
        return 0
    return 3 if any(isinstance(error, UserError) for error in FAILURES.values()) else 1

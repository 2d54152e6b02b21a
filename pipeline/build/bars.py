"""Progress bars by rich. Imported when there is a terminal and something to draw: the import takes 0.1 s."""

from __future__ import annotations

from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn


class RichBars:
    """One bar for each stage that reports progress."""

    def __init__(self, stream: TextIO) -> None:
        columns = (
            TextColumn("  {task.description:<12}"),
            BarColumn(32),
            TextColumn("{task.percentage:>3.0f} %"),
            TextColumn("{task.fields[what]}"),
            TimeRemainingColumn(),
        )
        self._progress = Progress(*columns, console=Console(file=stream), transient=True)
        self._progress.start()
        self._tasks: dict[str, TaskID] = {}

    def update(self, name: str, done: int, total: int, what: str) -> None:
        """Draw or move the bar of `name`."""
        if name not in self._tasks:
            self._tasks[name] = self._progress.add_task(name, total=total, what=what)
        self._progress.update(self._tasks[name], completed=done, total=total, what=what)

    def finish(self, name: str) -> None:
        """Take the bar of `name` away."""
        if name in self._tasks:
            self._progress.remove_task(self._tasks.pop(name))

    def close(self) -> None:
        """Take all bars away."""
        self._progress.stop()

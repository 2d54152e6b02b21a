"""The memory budget: stages whose estimates do not fit together wait for one another."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Condition

VARIABLE = "PIPELINE_MEMORY_BUDGET"  # bytes; for tests and for machines that run other things
SHARE = 0.9


class MemoryBudget:
    """Tokens of one byte. A stage that alone exceeds the budget still runs, alone: the estimate may be wrong."""

    def __init__(self, total: int | None = None) -> None:
        self.total = total if total is not None else available_memory()
        self._used = 0
        self._running = 0
        self._changed = Condition()

    @contextmanager
    def hold(self, size: int) -> Iterator[None]:
        """Wait until `size` bytes are free, hold them for the block."""
        with self._changed:
            self._changed.wait_for(lambda: self._running == 0 or self._used + size <= self.total)
            self._used += size
            self._running += 1
        try:
            yield
        finally:
            with self._changed:
                self._used -= size
                self._running -= 1
                self._changed.notify_all()


def available_memory() -> int:
    """Bytes that stages may use together: PIPELINE_MEMORY_BUDGET, or nine tenths of what the system has to give."""
    if text := os.environ.get(VARIABLE):
        return int(text)
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except FileNotFoundError:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    sizes = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines}
    return int(SHARE * sizes.get("MemAvailable", sizes["MemTotal"]))

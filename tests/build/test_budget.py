"""The memory budget: what does not fit together does not run together."""

from __future__ import annotations

import threading

import pytest

from pipeline.build.budget import MemoryBudget, available_memory


def most_at_once(budget: MemoryBudget, sizes: list[int]) -> int:
    """How many of the holders were in at the same time, at most. Each waits a moment for company."""
    inside, most, lock = 0, 0, threading.Lock()
    company = threading.Event()

    def work(size: int) -> None:
        nonlocal inside, most
        with budget.hold(size):
            with lock:
                inside += 1
                most = max(most, inside)
            company.wait(0.1)
            with lock:
                inside -= 1

    threads = [threading.Thread(target=work, args=(size,)) for size in sizes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert not any(thread.is_alive() for thread in threads)
    return most


@pytest.mark.parametrize(
    "total, sizes, expected",
    [(10, [5, 5], 2), (10, [6, 6], 1), (10, [3, 3, 3, 3], 3), (10, [50, 50], 1), (10, [50, 1], 1)],
)
def test_only_what_fits_together_runs_together(total: int, sizes: list[int], expected: int) -> None:
    assert most_at_once(MemoryBudget(total), sizes) == expected


def test_a_failure_gives_its_share_back() -> None:
    budget = MemoryBudget(10)
    with pytest.raises(KeyError), budget.hold(10):
        raise KeyError
    assert most_at_once(budget, [5, 5]) == 2


def test_the_budget_can_be_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIPELINE_MEMORY_BUDGET", "12345")
    assert MemoryBudget().total == 12345


def test_the_budget_is_what_the_system_has_to_give(monkeypatch: pytest.MonkeyPatch) -> None:
    psutil = pytest.importorskip("psutil")
    monkeypatch.delenv("PIPELINE_MEMORY_BUDGET", raising=False)
    assert 0.5 * psutil.virtual_memory().available < available_memory() < psutil.virtual_memory().total

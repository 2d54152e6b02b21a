"""Children that cannot outlive us. Linux only; elsewhere a child of a killed build ends when it next writes to us."""

from __future__ import annotations

import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def guard_group(lifeline: int, others: tuple[int, ...] = ()) -> None:
    """Fork a guard that kills this process's whole group, and what it has started, when `lifeline` comes to its end.

    lifeline: the reading end of a pipe whose writing end only the starter holds. A death signal is not inherited, so a
    converter that this process starts would outlive a killed build. others: handles that the guard must not keep open.
    Call it before any thread is started.
    """
    group = os.getpgrp()
    if os.fork():
        os.close(lifeline)
        return
    os.setsid()
    for handle in (0, 1, 2, *others):
        os.close(handle)
    os.read(lifeline, 1)
    try:
        os.killpg(group, signal.SIGKILL)
    finally:
        os._exit(0)


def die_with_parent(parent: int = 0) -> None:
    """Ask the kernel to kill this process when the thread that started it ends. Call it in a child's first lines.

    parent: the starter's pid if known, for the race in which it has died already.
    """
    if not sys.platform.startswith("linux"):
        return
    import ctypes

    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if parent and os.getppid() != parent:
        os._exit(1)

"""Children that cannot outlive us. Linux only; elsewhere a child of a killed build ends when it next writes to us."""

from __future__ import annotations

import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # linux/prctl.h


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

"""How much memory this process took."""

from __future__ import annotations

import re
import resource
from pathlib import Path

STATUS = Path("/proc/self/status")


def peak() -> int:
    """Peak resident bytes of this program so far.

    Linux counts the parent's pages before the program was started into `ru_maxrss` (a child is a copy of it until
    then); VmHWM of /proc/self/status (proc(5)) begins anew with the program.
    """
    if STATUS.exists() and (found := re.search(r"^VmHWM:\s+(\d+) kB$", STATUS.read_text(), re.MULTILINE)):
        return int(found[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

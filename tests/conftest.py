"""What holds for every test process and for those that it starts."""

from __future__ import annotations

import os

# Two of these processes share two cores, and torch takes two threads in each: one that waits for its turn must sleep.
# Spinning, as OpenMP's threads do otherwise, takes the core from the one that is waited for.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

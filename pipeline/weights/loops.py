"""Which loops a weight pass takes.

Importing numba and loading its compiled loops costs 0.7 s, compiling them 2 s more; numpy passes 0.4 GB of bfloat16 a
second and core. Below SMALL weights numpy is done before numba has begun.
"""

from __future__ import annotations

from typing import cast

from pipeline.weights import plain
from pipeline.weights.plain import Loops

SMALL = 400_000_000


def loops_for(weights: int) -> Loops:
    """The faster implementation for a model of that many weights."""
    if weights < SMALL:
        return cast(Loops, plain)
    from pipeline.weights import kernels

    return cast(Loops, kernels)

"""The searches for a block's grid, by the algorithm's name."""

from __future__ import annotations

from pipeline.weights.algorithms import check
from pipeline.weights.quantiser import Quantiser


def quantiser(name: str) -> Quantiser:
    """The grid search called `name`; modules are imported here, for some bring a compiler with them.

    Raises UserError with the nearest match if there is none.
    """
    check(name)
    if name == "rtn":
        from pipeline.weights.rtn import grid
    elif name == "mse":
        from pipeline.weights.mse import grid
    elif name == "wmse":
        from pipeline.weights.wmse import grid
    elif name == "hqq":
        from pipeline.weights.hqq import grid
    elif name == "awq":
        from pipeline.weights.awq import grid
    else:
        raise ValueError(f"{name} has no grid of its own")
    return grid

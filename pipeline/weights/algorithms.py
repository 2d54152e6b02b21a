"""The algorithms by name. A new one is one module beside this one, one line here and one YAML in conf/quant."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.errors import UserError, nearest

if TYPE_CHECKING:
    from pipeline.weights.quantiser import Quantiser

QUANTISERS = ("rtn", "mse", "wmse", "hqq", "awq")
"""Searches for one block's grid; each is a module of that name with a function `grid`."""

SOLVERS = ("gptq",)
"""Choose all codes of a linear together, in the stage that also calibrates them."""

LATTICES = ("source",)
"""Take the codes that the checkpoint itself is stored in."""

NAMES = (*QUANTISERS, *SOLVERS, *LATTICES)
CALIBRATED = ("wmse", "awq", "gptq")


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


def check(name: str) -> None:
    """Raise UserError with the nearest match unless there is an algorithm called `name`."""
    if name not in NAMES:
        raise UserError(f"no quantisation algorithm '{name}'.{nearest(name, NAMES)}", f"one of {', '.join(NAMES)}")

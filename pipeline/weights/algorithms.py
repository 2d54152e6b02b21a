"""The names of the algorithms. A new one is a module beside this one, its name here, a line in grids.py and a YAML."""

from __future__ import annotations

from pipeline.errors import UserError, nearest

QUANTISERS = ("rtn", "mse", "wmse", "hqq", "awq")
"""Searches for one block's grid; each is a module of that name with a function `grid`."""

SOLVERS = ("gptq",)
"""Choose all codes of a linear together, in the stage that also calibrates them."""

LATTICES = ("source",)
"""Take the codes that the checkpoint itself is stored in."""

NAMES = (*QUANTISERS, *SOLVERS, *LATTICES)
CALIBRATED = ("wmse", "awq", "gptq")


def check(name: str) -> None:
    """Raise UserError with the nearest match unless there is an algorithm called `name`."""
    if name not in NAMES:
        raise UserError(f"no quantisation algorithm '{name}'.{nearest(name, NAMES)}", f"one of {', '.join(NAMES)}")

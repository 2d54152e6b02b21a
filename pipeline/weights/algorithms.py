"""The algorithms by name. A new one is one module beside this one, one line here and one YAML in conf/quant."""

from __future__ import annotations

from pipeline.errors import UserError, nearest
from pipeline.weights import rtn
from pipeline.weights.quantiser import Quantiser

QUANTISERS: dict[str, Quantiser] = {"rtn": rtn.grid}


def quantiser(name: str) -> Quantiser:
    """The algorithm called `name`; UserError with the nearest match if there is none."""
    if name not in QUANTISERS:
        raise UserError(f"no quantisation algorithm '{name}'.{nearest(name, QUANTISERS)}", "see docs/quantisation.md")
    return QUANTISERS[name]

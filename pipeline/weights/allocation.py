"""Which precision each linear gets under a budget of bytes or of divergence, from the measured sensitivities.

For a price λ of a byte every linear takes the candidate with the least divergence + λ · bytes: each such choice is
optimal for the bytes that it needs. The price is halved until the budget is met; what is left over then buys, one by
one, the exchanges that lower the divergence most per byte and still fit.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.weights.layout import Layout, Linear
from pipeline.weights.precision import Precision, resolve
from pipeline.weights.rules import matching_rules
from pipeline.weights.sizes import stored_bytes

TABLE = "sensitivity.json"


@dataclass(frozen=True)
class Choice:
    """One way to store a linear. bytes: header and bias aside; kld: predicted nats a token."""

    bits: int
    block: int
    bytes: int
    kld: float


Table = Mapping[str, Sequence[Choice]]


def precisions_for(layout: Layout, quant: Mapping[str, Any], inputs: Mapping[str, Path]) -> dict[str, Precision]:
    """What `resolve` says, with bits and block of the measured linears chosen for the budget if there is one.

    inputs["sensitivity"] holds the table. The output head and linears with a rule keep what the recipe says.
    """
    fixed = resolve(layout, quant)
    if all(quant.get(key) is None for key in ("target_bytes", "target_bpw", "max_kld")):
        return fixed
    ruled = matching_rules([linear.name for linear in layout.linears], quant.get("rules") or [])
    table = {
        name: choices
        for name, choices in load_table(inputs["sensitivity"] / TABLE).items()
        if name not in ruled and name != layout.lm_head
    }
    rest = sum(_bytes(linear, fixed[linear.name]) for linear in layout.linears if linear.name not in table)
    refuse_below(layout, quant, rest + sum(min(choice.bytes for choice in choices) for choices in table.values()))
    chosen = allocate(table, budget(layout, quant), rest, quant.get("max_kld"))
    return {**fixed, **{name: replace(fixed[name], bits=c.bits, block=c.block) for name, c in chosen.items()}}


def load_table(path: Path) -> dict[str, list[Choice]]:
    """The candidates of every measured linear."""
    document = json.loads(path.read_text(encoding="utf-8"))
    return {
        name: [Choice(int(c["bits"]), int(c["block"]), int(c["bytes"]), float(c["kld"])) for c in candidates]
        for name, candidates in document["linears"].items()
    }


def refuse_below(layout: Layout, quant: Mapping[str, Any], least: int) -> None:
    """Raises UserError, in the budget's own unit, if it is below `least` bytes."""
    size, width = quant.get("target_bytes"), quant.get("target_bpw")
    if size is not None and size < least:
        asked, minimum = f"quant.target_bytes={size:,}", f"{least:,} bytes"
    elif width is not None and int(width * _weights(layout) / 8) < least:
        share = math.ceil(8000 * least / _weights(layout)) / 1000
        asked, minimum = f"quant.target_bpw={width:g}", f"{share:g} bits a weight ({least:,} bytes)"
    else:
        return
    raise UserError(
        f"{asked} is below the least that this model can take, {minimum}", "raise the budget, or lower quant.lm_bits"
    )


def _weights(layout: Layout) -> int:
    return sum(linear.out_features * linear.in_features for linear in layout.linears)


def budget(layout: Layout, quant: Mapping[str, Any]) -> int | None:
    """Bytes that all linears together may take; None if only the divergence is limited."""
    width = quant.get("target_bpw")
    limits = [quant.get("target_bytes"), width and int(float(width) * _weights(layout) / 8)]
    return min((int(limit) for limit in limits if limit is not None), default=None)


def allocate(table: Table, limit: int | None, rest: int, max_kld: float | None) -> dict[str, Choice]:
    """The choice of every linear in `table`; `rest` bytes are spent elsewhere.

    limit: bytes in all, and the least divergence within it; or max_kld: the fewest bytes that reach it.
    Raises UserError that names the minimum if the budget is below it.
    """
    cheapest = {name: min(choices, key=lambda c: (c.bytes, c.kld)) for name, choices in table.items()}
    if limit is not None and _total(cheapest) + rest > limit:
        raise UserError(
            f"quant.target asks for {limit:,} bytes, and the least that this model can take is "
            f"{_total(cheapest) + rest:,}",
            "raise the budget, or lower quant.lm_bits",
        )
    if limit is not None:
        return _improved(table, _priced(table, lambda found: _total(found) + rest <= limit), limit - rest)
    assert max_kld is not None
    best = sum(min(c.kld for c in choices) for choices in table.values())
    if best > max_kld:
        raise UserError(
            f"quant.max_kld={max_kld} is out of reach: the least predicted divergence is {best:.4f}", "raise it"
        )
    return _priced(table, lambda found: _kld(found) <= max_kld, dearest=True)


def _priced(table: Table, fits: Any, dearest: bool = False) -> dict[str, Choice]:
    """The optimal choices at the lowest price that `fits` (`dearest`: at the highest), by bisection."""
    low, high = -60.0, 20.0
    for _ in range(60):
        middle = (low + high) / 2
        if fits(at_price(table, 2.0**middle)) == dearest:
            low = middle
        else:
            high = middle
    return at_price(table, 2.0 ** (low if dearest else high))


def at_price(table: Table, price: float) -> dict[str, Choice]:
    """Each linear's best choice when a byte costs `price` nats."""
    return {name: min(choices, key=lambda c: (c.kld + price * c.bytes, c.bytes)) for name, choices in table.items()}


def _improved(table: Table, chosen: dict[str, Choice], limit: int) -> dict[str, Choice]:
    """Spend what is left of `limit` on the exchanges that gain most per byte."""
    while True:
        left = limit - _total(chosen)
        exchanges = [
            ((chosen[name].kld - c.kld) / max(c.bytes - chosen[name].bytes, 1), name, c)
            for name, choices in table.items()
            for c in choices
            if c.kld < chosen[name].kld and c.bytes - chosen[name].bytes <= left
        ]
        if not exchanges:
            return chosen
        _, name, choice = max(exchanges, key=lambda one: (one[0], one[1]))
        chosen = {**chosen, name: choice}


def frontier(table: Table) -> list[tuple[int, float]]:
    """(bytes, predicted divergence) of the optimal choices over all prices, fewest bytes first."""
    points = {(_total(found), _kld(found)) for found in (at_price(table, 2.0 ** (-x / 4)) for x in range(-80, 240))}
    return sorted(points)


def _total(chosen: Mapping[str, Choice]) -> int:
    return sum(choice.bytes for choice in chosen.values())


def _kld(chosen: Mapping[str, Choice]) -> float:
    return sum(choice.kld for choice in chosen.values())


def _bytes(linear: Linear, precision: Precision) -> int:
    return stored_bytes(linear.out_features, linear.in_features, precision)

"""How each linear of a layout is stored: bits, block, symmetry and algorithm, resolved before any weight is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.errors import UserError
from pipeline.weights.algorithms import check
from pipeline.weights.layout import Layout, Linear
from pipeline.weights.rules import matching_rules

FP16 = 16
EMBEDDING_BITS = (4, 8, 16)  # the engine's reader of embedding rows knows no others


@dataclass(frozen=True)
class Precision:
    """bits 2..8 or 16 (fp16, then the other fields mean nothing); block divides in_features; scale_bits 16 or 32."""

    bits: int
    block: int = 0
    symmetric: bool = False
    scale_bits: int = 16
    algorithm: str = "rtn"

    @property
    def half(self) -> int:
        """The code that stands for the signed value 0."""
        return 1 << (self.bits - 1)

    @property
    def least(self) -> int:
        """The least signed code: symmetric grids leave the lowest one unused, so that they are symmetric."""
        return -self.half + (1 if self.symmetric else 0)

    @property
    def most(self) -> int:
        """The greatest signed code."""
        return self.half - 1

    @property
    def steps(self) -> int:
        """Number of steps between the ends of an asymmetric grid."""
        return (1 << self.bits) - 1


def resolve(layout: Layout, quant: Mapping[str, Any]) -> dict[str, Precision]:
    """The precision of every linear of `layout` by its name, under the recipe's `quant` section.

    Raises UserError for a block that does not divide a linear's in_features, a width that the engine lacks, or a rule
    without a matching linear.
    """
    names = [linear.name for linear in layout.linears]
    rules = matching_rules(names, quant.get("rules") or [])
    return {linear.name: _precision(linear, layout, quant, rules.get(linear.name)) for linear in layout.linears}


def _precision(
    linear: Linear, layout: Layout, quant: Mapping[str, Any], rule: Mapping[str, Any] | None
) -> Precision:
    head = linear.name == layout.lm_head
    chosen = {
        "bits": _first(quant.get("lm_bits") if head else None, quant["bits"]),
        "block": _first(quant.get("lm_block") if head else None, quant["block"]),
        "symmetric": quant.get("symmetric", False),
        "algorithm": quant.get("algorithm", "rtn"),
    }
    chosen.update({key: rule[key] for key in chosen if rule and rule.get(key) is not None})
    if linear.keep or (rule and rule.get("keep")) or chosen["bits"] == FP16:
        return Precision(FP16)
    if head and layout.tied and chosen["bits"] not in EMBEDDING_BITS:
        raise UserError(
            f"'{linear.name}' is also the embedding table, which the engine reads in {_listed(EMBEDDING_BITS)} bits,"
            f" not {chosen['bits']}",
            "set quant.lm_bits=8",
        )
    check(str(chosen["algorithm"]))
    if head and chosen["algorithm"] in ("gptq", "awq"):
        chosen["algorithm"] = "wmse"  # no layer after it could make up for its errors; its input is the final norm's
    block = _block(linear, int(chosen["block"]))
    scale_bits = int(quant.get("scale_bits", 16))
    return Precision(int(chosen["bits"]), block, bool(chosen["symmetric"]), scale_bits, str(chosen["algorithm"]))


def _first(*values: Any) -> Any:
    return next(value for value in values if value is not None)


def _block(linear: Linear, block: int) -> int:
    """`block`, or in_features for block 0; never another one than was asked for."""
    if block == 0:
        return linear.in_features
    if linear.in_features % block:
        nearest = _dividing(linear.in_features, block)
        raise UserError(
            f"block {block} does not divide the {linear.in_features} inputs of '{linear.name}'",
            f"use {_listed(nearest)}, or 0 for one scale per output channel",
        )
    return block


def _dividing(size: int, block: int) -> Sequence[int]:
    """The divisors of `size` next below and next above `block`, at least 8 where there is one."""
    divisors = [d for d in range(1, size + 1) if size % d == 0]
    below = [d for d in divisors if d < block][-1:]
    above = [d for d in divisors if d > block][:1]
    return below + above


def _listed(values: Sequence[int]) -> str:
    return " or ".join(str(value) for value in values)

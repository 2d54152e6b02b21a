"""torch's operators without values, without sympy: a second of the graph stage, for sizes that are plain numbers.

torch asks its module for symbolic sizes whether a condition holds each time that it computes the shape of an operator's
result, and sympy whether a number is a symbol. Where no size is a symbol the answers are plain logic; with any other
argument the real function answers (as of torch 2.13, torch/fx/experimental/symbolic_shapes.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pipeline.graph.stand_in import StandIn, put, real

SYMPY = "sympy"
SHAPES = "torch.fx.experimental.symbolic_shapes"


class _Symbol:
    """Stands for sympy's base class, of which nothing can be an instance before sympy is imported."""


def _itself(value: Any) -> Any:
    return value


def _equal(one: Any, other: Any) -> bool:
    """Of two numbers, or of two sequences whatever their types."""
    if isinstance(one, (tuple, list)):
        return len(one) == len(other) and all(map(_equal, one, other))
    return bool(one == other)


ANSWERS: dict[str, Callable[..., Any]] = {
    **dict.fromkeys(("expect_true", "guard_bool", "guard_or_false", "guard_or_true"), _itself),
    **dict.fromkeys(("guard_size_oblivious", "statically_known_true"), _itself),
    "guarding_hint_or_throw": _itself,
    "has_guarding_hint": lambda size: True,
    "is_nested_int": lambda size: False,
    "sym_and": lambda *conditions: all(conditions),
    "sym_eq": _equal,
    "sym_or": lambda *conditions: any(conditions),
}
_ABOUT_SIZES = ("guarding_hint_or_throw", "has_guarding_hint", "is_nested_int", "sym_eq")


def _is_condition(value: Any) -> bool:
    return type(value) is bool


def _is_size(value: Any) -> bool:
    return type(value) is int or (isinstance(value, (tuple, list)) and all(map(_is_size, value)))


def _answering(name: str) -> Callable[..., Any]:
    answer, plain = ANSWERS[name], _is_size if name in _ABOUT_SIZES else _is_condition

    def function(*values: Any, **named: Any) -> Any:
        alike = len({isinstance(value, (tuple, list)) for value in values}) < 2
        if alike and not named and all(map(plain, values)):
            return answer(*values)
        return getattr(real(SHAPES), name)(*values, **named)

    return function


def put_stand_ins() -> None:
    """From now on both modules are imported only if something else is asked of them."""
    put(StandIn(SHAPES, {name: _answering(name) for name in ANSWERS}))
    put(StandIn(SYMPY, {"Basic": _Symbol}))

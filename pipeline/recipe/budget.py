"""Which of a recipe's budgets counts: the one that the person gave, and a preset's own only where none was given."""

from __future__ import annotations

from collections.abc import Collection

from pipeline.errors import UserError
from pipeline.recipe.schema import Recipe

BUDGETS = ("target_bytes", "target_bpw", "max_kld")


def apply_budget(recipe: Recipe, explicit: Collection[str]) -> None:
    """Drop, in place, a preset's budget beside one that is among the `explicit` keys.

    Raises UserError for two explicit ones: the looser would be without any effect.
    """
    given = [key for key in BUDGETS if f"quant.{key}" in explicit and getattr(recipe.quant, key) is not None]
    if len(given) > 1:
        names = " and ".join(f"quant.{key}" for key in given)
        raise UserError(f"{names} are two budgets, and one decides", f"give quant.{given[0]} alone")
    for key in BUDGETS if given else ():
        if key not in given:
            setattr(recipe.quant, key, None)

"""Ordered overrides by tensor name: the first rule whose pattern is found in the name wins."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.errors import UserError, nearest

Rule = Mapping[str, Any]


def matching_rules(names: Sequence[str], rules: Sequence[Rule]) -> dict[str, Rule]:
    """The winning rule of each of `names` that has one.

    Raises UserError for a pattern that is no regular expression, and for a rule that finds no name at all (a rule
    hidden by earlier ones is found, and legal).
    """
    patterns = [_compiled(rule["pattern"]) for rule in rules]
    for pattern in patterns:
        if not any(pattern.search(name) for name in names):
            raise unmatched(pattern.pattern, names)
    winners = {name: _winner(name, patterns) for name in names}
    return {name: rules[index] for name, index in winners.items() if index is not None}


def unmatched(pattern: str, names: Sequence[str]) -> UserError:
    """The error for a rule that finds none of `names`, with the nearest of the words that they are made of."""
    leaves = dict.fromkeys(".".join(name.split(".")[-length:]) for length in (1, 2) for name in names)
    plain = re.sub(r"\\.|[^\w.]", lambda found: "." if found[0] == "\\." else "", pattern).strip(".")
    guess = nearest(plain, [leaf for leaf in leaves if not leaf.isdigit()])
    told = f"the rule '{pattern}' matches no linear of this model" + (f".{guess}" if guess else "")
    return UserError(told, _examples(names))


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise UserError(f"the rule '{pattern}' is not a regular expression: {error}", "mend quant.rules") from None


def _winner(name: str, patterns: Sequence[re.Pattern[str]]) -> int | None:
    return next((index for index, pattern in enumerate(patterns) if pattern.search(name)), None)


def _examples(names: Sequence[str]) -> str:
    return f"names look like {', '.join(names[:3])}" if names else "the layout has no linears"

"""`model=nope` and its like, found by looking into conf/: no hydra, whose import takes 0.25 s."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from pipeline.recipe.conf import GROUPS, option_files, unknown_option
from pipeline.recipe.overrides import split

_SIMPLE = re.compile(r"\w+=[\w./-]+")


def refuse_early(overrides: Sequence[str], folders: Sequence[Path]) -> None:
    """`refuse_unknown_options` of those overrides that need no grammar: without quotes and sweeps."""
    refuse_unknown_options([text for text in overrides if _SIMPLE.fullmatch(text)], folders)


def refuse_unknown_options(overrides: Sequence[str], folders: Sequence[Path]) -> None:
    """Raise UserError for the first `group=name` among `overrides` (sweeps expanded or none) that names no option."""
    for text in overrides:
        key, value = split(text)
        if key not in GROUPS:
            continue
        known = option_files(key, folders)
        if value.strip("'\"") not in known:
            raise unknown_option(key, value.strip("'\""), known)

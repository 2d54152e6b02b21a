"""One encoding for everything that is hashed: equal values have equal bytes on every machine, unequal ones never.

Every digest has a domain tag, so that an action key can never be mistaken for, or made to equal, a tree's digest.
"""

from __future__ import annotations

import hashlib
import json
import math
from typing import Any


def encode(value: Any) -> bytes:
    """Canonical JSON of plain data: sorted keys, no blanks, ASCII, tuples as lists, 1.0 never as 1.

    Raises TypeError for anything but str, bool, int, finite float, None, list, tuple and dicts with str keys: a `repr`
    or an address in memory in a key would change from run to run.
    """
    _check(value)
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode("ascii")


def digest(domain: str, value: Any) -> str:
    """sha256 (64 hexadecimal digits) over the domain's tag and the canonical encoding of `value`."""
    return hashlib.sha256(f"mnn-pipeline/{domain}/1\n".encode() + encode(value)).hexdigest()


def _check(value: Any) -> None:
    if value is None or isinstance(value, (str, bool, int)):
        return
    if isinstance(value, float):
        if not math.isfinite(value):
            raise TypeError(f"{value} has no canonical encoding")
    elif isinstance(value, (list, tuple)):
        for item in value:
            _check(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise TypeError(f"key {key!r} of a dict is not a string")
            _check(item)
    else:
        raise TypeError(f"{type(value).__name__} has no canonical encoding")

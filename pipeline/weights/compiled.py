"""How the loops of this package are compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

F = TypeVar("F", bound=Callable[..., Any])


def compiled(signature: str, **flags: Any) -> Callable[[F], F]:
    """A decorator: machine code for `signature`, cached beside the module, without the interpreter's lock.

    flags: numba's own. None starts threads or contracts a product and a sum into one rounding.
    """
    return cast(Callable[[F], F], numba.njit(signature, nogil=True, cache=True, error_model="numpy", **flags))

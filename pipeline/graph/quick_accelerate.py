"""transformers without accelerate, which is installed with peft and which transformers imports along with itself.

It serves models that are spread over devices: none here is. So transformers is told that it is not there, and is a
fifth of a second sooner (a third where boto3 is installed, too). What was imported with that answer lacks names of
accelerate, so the answer stays. As of transformers 5.23 one function insists on accelerate without using it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

ASKED = "is_accelerate_available"
LOADER = "transformers.modeling_utils"


def _never(*_: Any, **__: Any) -> bool:
    return False


def leave_out(tools: ModuleType) -> None:
    """From now on, whoever takes the question from transformers.utils.import_utils, `tools`, is told no."""
    if hasattr(tools, ASKED):
        setattr(tools, ASKED, _never)


@contextmanager
def admitted() -> Iterator[None]:
    """While open, the loader of models believes that accelerate is there: it reads no GGUF file otherwise."""
    loader = sys.modules.get(LOADER)
    if loader is None or getattr(loader, ASKED, None) is not _never:
        yield
        return
    setattr(loader, ASKED, lambda *_, **__: True)
    try:
        yield
    finally:
        setattr(loader, ASKED, _never)

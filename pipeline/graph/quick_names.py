"""The names of all models, which transformers collects whenever it is imported, found sooner.

It goes through the sources of its models line by line for what each has in `__all__`. As of transformers 5.23 that is a
function of `transformers.utils.import_utils`, which is changed as soon as that module has run, before anything asks it;
and so is what it says of accelerate (quick_accelerate).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

from pipeline.graph.quick_accelerate import leave_out

TOOLS = "transformers.utils.import_utils"
NAMES = "__all__"


def shortened(names: Callable[[str], list[str]]) -> Callable[[str], list[str]]:
    """`names`, which finds the last line that begins with `__all__` in a source, told nothing of what is before."""

    def found(source: str) -> list[str]:
        return names(source[source.rfind(f"\n{NAMES}") + 1 :])

    return found


def change(tools: ModuleType) -> None:
    """Nothing where transformers has no such function (any more)."""
    names = vars(tools)
    if "fetch__all__" in names:
        names["fetch__all__"] = shortened(names["fetch__all__"])
    leave_out(tools)


class _Changing:
    """A finder for one module: it is changed when it has run."""

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: Any = None) -> ModuleSpec | None:
        if name != TOOLS:
            return None
        sys.meta_path.remove(self)
        spec = PathFinder.find_spec(name, path)
        if spec is None or spec.loader is None:
            return None
        run = spec.loader.exec_module

        def run_and_change(module: ModuleType) -> None:
            run(module)
            change(module)

        spec.loader.exec_module = run_and_change  # type: ignore[method-assign]
        return spec


def prepare() -> None:
    """Wait for transformers to be imported; nothing if it is already."""
    if TOOLS not in sys.modules and not any(isinstance(finder, _Changing) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Changing())

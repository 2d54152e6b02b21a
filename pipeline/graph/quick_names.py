"""What transformers asks about itself and its surroundings when it is imported, answered sooner.

It reads the sources of all its models, line by line, for the names that each has in `__all__`; and it imports
accelerate, which is installed with peft, only to have it. As of transformers 5.23 both are functions of its module
`utils.import_utils`, which is changed as soon as it has run, before anything else of transformers asks it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

TOOLS = "transformers.utils.import_utils"
NAMES = "__all__"


def shortened(names: Callable[[str], list[str]]) -> Callable[[str], list[str]]:
    """`names`, which finds the last line that begins with `__all__` in a source, told nothing of what is before."""

    def found(source: str) -> list[str]:
        return names(source[source.rfind(f"\n{NAMES}") + 1 :])

    return found


def never(*_: Any, **__: Any) -> bool:
    """The answer to whether a package is there, from now on: who was told so when imported must not hear otherwise."""
    return False


def change(tools: ModuleType) -> None:
    """Nothing where transformers has no such functions (any more)."""
    names = vars(tools)
    if "fetch__all__" in names:
        names["fetch__all__"] = shortened(names["fetch__all__"])
    if "is_accelerate_available" in names:
        names["is_accelerate_available"] = never


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

"""Modules that are not there until something of them is wanted that a stand-in does not know.

Some of torch's functions import large packages only to ask what a few lines can answer. A stand-in answers those, and
becomes the real module as soon as any other name, or a submodule, is asked for.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence
from importlib.abc import Loader
from importlib.machinery import ModuleSpec
from importlib.util import find_spec, spec_from_loader
from types import ModuleType
from typing import Any


class StandIn(ModuleType):
    """In the place of the module `name`. known: what it answers itself. before: called before it becomes real."""

    def __init__(self, name: str, known: dict[str, Any], before: Callable[[], object] = lambda: None) -> None:
        found = find_spec(name)  # before this takes its place; imports the module's parents
        super().__init__(name)
        self.__path__ = list((found and found.submodule_search_locations) or [])
        self.__file__ = found.origin if found else None  # whoever looks through sys.modules asks for it
        self.__dict__.update(known)
        self._before = before

    def __getattr__(self, name: str) -> Any:
        return getattr(real(self.__name__), name)


def put(module: StandIn) -> None:
    """From now on `import` finds the stand-in; nothing if the module itself is there already."""
    if module.__name__ in sys.modules:
        return
    sys.modules[module.__name__] = module
    if not any(isinstance(finder, _Submodules) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Submodules())


def real(name: str) -> ModuleType:
    """The module itself, from now on in its place; whoever holds the stand-in has the same names in it."""
    there = sys.modules.get(name)
    if not isinstance(there, StandIn):
        return importlib.import_module(name)
    there._before()
    del sys.modules[name]
    module = importlib.import_module(name)
    there.__dict__.update(vars(module))
    return module


class _Submodules:
    """A finder for what lies below a stand-in: makes that the real package, which may bring the submodule along."""

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: Any = None) -> ModuleSpec | None:
        """A spec for a module that is imported already; None for all others."""
        parent = name.rpartition(".")[0]
        while parent and not isinstance(sys.modules.get(parent), StandIn):
            parent = parent.rpartition(".")[0]
        if not parent:
            return None
        real(parent)
        return spec_from_loader(name, _Imported(sys.modules[name])) if name in sys.modules else None


class _Imported(Loader):
    """A loader of a module that is there."""

    def __init__(self, module: ModuleType) -> None:
        self._module = module

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """The module itself."""
        return self._module

    def exec_module(self, module: ModuleType) -> None:
        """Nothing: it was run when it was imported."""

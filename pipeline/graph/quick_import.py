"""transformers without torch's compiler and torch.distributed, which it drags in: half of a small model's graph stage.

Nothing here compiles or distributes. But transformers imports a helper for compiled masks and marks functions as not
to be compiled, torch asks its compiler to stay away from some functions when they are first called, and tensors spread
over machines have classes of their own. So `torch._dynamo` becomes a stand-in that knows those marks, and becomes the
real module as soon as anything else is wanted of it; and while transformers is imported torch says that it has no
`distributed`, which is a kind of torch that transformers knows and remembers. Import this before anything of
transformers.

transformers also reads the sources of all its models twice, for the names in them; the second time is spared here, and
the first is shorter (quick_names); accelerate is left out (quick_accelerate).
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from pipeline.graph import quick_names
from pipeline.graph.quick_symbols import put_stand_ins
from pipeline.graph.stand_in import StandIn, put, real

COMPILER = "torch._dynamo"
_HELPER = f"{COMPILER}._trace_wrapped_higher_order_op"
_MODULES = ("transformers.masking_utils", "transformers.modeling_utils")


def _as_it_is(function: Any = None, *_: Any, **__: Any) -> Any:
    """A decorator, with arguments or without, that changes nothing."""
    return (lambda decorated: decorated) if function is None else function


class _IndexMode:
    """Stands for the helper's class, a context manager; the real one is imported when a `with` opens it."""

    def __enter__(self) -> Any:
        self._real: Any = importlib.import_module(_HELPER).TransformGetItemToIndex()
        return self._real.__enter__()

    def __exit__(self, *error: object) -> Any:
        return self._real.__exit__(*error)


class _Compiled(ModuleType):
    """Stands for `torch._dynamo.eval_frame`: until the compiler is there, no module is a compiled one."""

    class OptimizedModule:
        """accelerate asks of each model that is saved whether it is one."""

    def __getattr__(self, name: str) -> Any:
        return getattr(real(COMPILER).eval_frame, name)


def _compiler() -> StandIn:
    """`torch._dynamo` until more is wanted than functions and the cache's tensors left as they are."""
    marks = ("disable", "assume_constant_result", "allow_in_graph", "mark_static_address")
    known: dict[str, Any] = {**dict.fromkeys(marks, _as_it_is), "eval_frame": _Compiled(f"{COMPILER}.eval_frame")}
    return StandIn(COMPILER, known, before=lambda: sys.modules.pop(_HELPER, None))


@contextmanager
def _without_distributed() -> Iterator[None]:
    is_available, helper = torch.distributed.is_available, ModuleType(_HELPER)
    vars(helper)["TransformGetItemToIndex"] = _IndexMode
    sys.modules[_HELPER] = helper
    torch.distributed.is_available = lambda: False
    try:
        yield
    finally:
        torch.distributed.is_available = is_available
        if sys.modules.get(_HELPER) is helper:
            del sys.modules[_HELPER]


@contextmanager
def _models_known() -> Iterator[None]:
    """While open, `transformers.models` gets its lazy names from `transformers`, which has just collected them."""
    tools: Any = importlib.import_module("transformers.utils.import_utils")
    package = importlib.import_module("transformers")
    folder, read = Path(str(package.__file__)).parent / "models", tools.define_import_structure

    def define(path: Any, prefix: str | None = None) -> Any:
        is_models = Path(path) in (folder, folder / "__init__.py") and prefix is None
        return _names_under(package, "models.") if is_models else read(path, prefix)

    tools.define_import_structure = define
    try:
        yield
    finally:
        tools.define_import_structure = read


def _names_under(package: Any, prefix: str) -> dict[frozenset[str], dict[str, set[str]]]:
    """The import structure of a part of a lazy package: module → names."""
    names: dict[str, set[str]] = {module: set() for module in package._modules if module.startswith(prefix)}
    for name, module in package._class_to_module.items():
        if module in names:
            names[module].add(name)
    return {frozenset(): {module.removeprefix(prefix): found for module, found in sorted(names.items())}}


def load() -> None:
    """Imports torch and transformers; done when this module is imported, so that a worker may warm up with it."""
    if COMPILER in sys.modules or any(name in sys.modules for name in _MODULES):
        return
    put(_compiler())
    put_stand_ins()
    quick_names.prepare()
    # A transformers that is built otherwise is imported as usual, only slower.
    with suppress(AttributeError, ImportError), _without_distributed(), _models_known():
        for name in _MODULES:
            importlib.import_module(name)


load()

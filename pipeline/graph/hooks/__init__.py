"""Modules that the tracer does not run as they are: by class name, a function that stands in for `forward`.

For what a graph can only say by a placeholder of its own (a state from token to token). One file per kind; a file's
classes are registered in `HOOKS` below. The tracer itself knows none of these names.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from pipeline.graph.hooks import gated_delta_net, short_conv

# class name → function(module, hidden_states, **the rest of forward's arguments) → forward's result
HOOKS: dict[str, Callable[..., Any]] = {
    **dict.fromkeys(gated_delta_net.CLASSES, gated_delta_net.forward),
    **dict.fromkeys(short_conv.CLASSES, short_conv.forward),
}


def attach(model: Any) -> None:
    """Puts the hooks in the place of `forward`, module by module."""
    for module in model.modules():
        hook = HOOKS.get(type(module).__name__)
        if hook is not None:
            module.forward = partial(hook, module)

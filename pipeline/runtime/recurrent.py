"""What the engine cannot do with a model that has a state from token to token (short convolutions, gated delta rule).

Such a state holds no tokens one by one, so none can be taken back: the engine either keeps it or sets it to zero
(CPULinearAttention.cpp, tag 3.6.1). Measured on small models, each of these gives other logits than the model's by more
than half of the largest one. The engine says nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.runtime.key import version

OLDEST = "3.6.1"  # the only engine that such graphs were run on


def check_recurrent(values: Mapping[str, Any], engine: str = OLDEST) -> list[str]:
    """One line for each key of a configuration that such a model cannot have; [] if all is well."""
    lines = []
    if version(engine) < version(OLDEST):
        lines.append(f"engine {engine} is older than {OLDEST}, the first that a recurrent state was tried on")
    if values.get("speculative_type"):
        lines.append("speculative_type: drafted tokens that are not taken would stay in the model's recurrent state")
    if values.get("chunk_limits"):
        lines.append("chunk_limits: the zeros that fill a run up would stay in the model's recurrent state")
    if values.get("chunk") == 1:
        lines.append("chunk: the engine starts the model's recurrent state afresh in runs of two tokens or more only")
    return lines

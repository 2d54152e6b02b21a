"""LoRA on stacked experts (PEFT's target_parameters) merged into the single experts that checkpoints hold.

PEFT keeps A as [experts·r, in] and B as [out, r·experts], expert e owning rows e·r … of A and columns e, e + experts, …
of B (peft: ParamWrapper.get_delta_weight). transformers 5 stacks gate over up in one parameter, `gate_up_proj`.
"""

from __future__ import annotations

import numpy as np

from pipeline.checkpoint.changes import Change, LowRank
from pipeline.checkpoint.lora_config import LoraConfig
from pipeline.checkpoint.lora_names import expert_tensors
from pipeline.checkpoint.tensor import Checkpoint, FileTensor, to_float32
from pipeline.errors import StageFailed


def expert_changes(
    base: Checkpoint, module: str, leaves: dict[str, FileTensor], config: LoraConfig
) -> list[tuple[str, Change]] | None:
    """Changes of every expert's tensors; None if the checkpoint has no such experts.

    Two adapted parameters of one module are nested as base_layer.lora_A beside lora_A; which is which, the shapes say.
    """
    experts = expert_tensors(module, base)
    if not experts:
        return None
    changes: list[tuple[str, Change]] = []
    seen = set()
    for prefix in ("", "base_layer.", "base_layer.base_layer."):
        a, b = (leaves.pop(f"{prefix}lora_{letter}.weight", None) for letter in "AB")
        if a is None and b is None:
            continue
        if a is None or b is None:
            raise StageFailed(f"{config.name}: {module} has only one of its two matrices", "the adapter is incomplete")
        parameter, found = _one_parameter(base, experts, module, a, b, config)
        if parameter in seen:
            raise StageFailed(f"{config.name}: {module}.{parameter} is adapted twice", "save the adapter again")
        seen.add(parameter)
        changes += found
    if leaves:
        raise StageFailed(f"{config.name}: {module}.{min(leaves)} is not known here", "merge it with PEFT instead")
    return changes


def _one_parameter(
    base: Checkpoint,
    experts: list[tuple[str, str, str]],
    module: str,
    a: FileTensor,
    b: FileTensor,
    config: LoraConfig,
) -> tuple[str, list[tuple[str, Change]]]:
    """("gate_up_proj" or "down_proj", its changes), told apart by the shapes."""
    inner, hidden = base[experts[0][0]].shape
    shapes = {"gate_up_proj": (2 * inner, hidden), "down_proj": base[experts[0][2]].shape}
    parameter = next((name for name, shape in shapes.items() if shape == (b.shape[0], a.shape[1])), None)
    count = len(experts)
    if parameter is None or a.shape[0] != b.shape[1] or a.shape[0] % count:
        raise StageFailed(
            f"{config.name}: {module} is adapted by {list(a.shape)} and {list(b.shape)}, which fit none of its "
            f"{count} experts' matrices",
            "check that the adapter was made for this model",
        )
    name = f"{module}.{parameter}"
    if a.shape[0] != config.rank(name) * count:
        raise StageFailed(
            f"{config.name}: {name} has rank {a.shape[0] // count}, adapter_config.json says {config.rank(name)}",
            "the adapter's two files do not belong together",
        )
    first = to_float32(a.read()).reshape(count, -1, a.shape[1])
    second = to_float32(b.read()).reshape(b.shape[0], -1, count)
    changes: list[tuple[str, Change]] = []
    for number, (gate, up, down) in enumerate(experts):
        left, right = np.ascontiguousarray(second[:, :, number]), first[number]
        rows = {down: left} if parameter == "down_proj" else {gate: left[:inner], up: left[inner:]}
        changes += [(tensor, LowRank(part, right, config.scale(name))) for tensor, part in rows.items()]
    return parameter, changes

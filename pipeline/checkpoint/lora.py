"""LoRA adapters merged into a checkpoint tensor by tensor (PEFT's file format), never as a copy on the disk.

Nothing is half applied: every tensor of the adapter's file must find its place, and every place must change.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pipeline.checkpoint.changes import Change, ChangedTensor, Dora, LowRank, Replacement, Shift
from pipeline.checkpoint.lora_config import LoraConfig, read_config
from pipeline.checkpoint.lora_experts import expert_changes
from pipeline.checkpoint.lora_names import EMBEDDINGS, HEADS, PREFIX, embedding_name, tensor_name
from pipeline.checkpoint.safetensors import read_safetensors
from pipeline.checkpoint.tensor import Checkpoint, FileTensor, LazyTensor, to_float32
from pipeline.errors import StageFailed

OTHER_BASE = "check that the adapter was made for this model"
Changes = dict[str, list[Change]]


class MergedCheckpoint(Mapping[str, LazyTensor]):
    """A checkpoint with adapters merged. `untied`: the adapters made lm_head and embedding differ, so the model's
    config must not tie them any more; a lm_head that the file left out is then a tensor of its own here."""

    def __init__(self, base: Checkpoint, changes: Mapping[str, Sequence[Change]], untied: bool) -> None:
        self._base = dict(base)
        self.untied = untied
        embedding = embedding_name(base)
        if untied and embedding is not None and not any(f"{head}.weight" in base for head in HEADS):
            self._base["lm_head.weight"] = base[embedding]
        self._changes = changes

    def __getitem__(self, name: str) -> LazyTensor:
        base = self._base[name]
        return ChangedTensor(base, self._changes[name]) if name in self._changes else base

    def __iter__(self) -> Iterator[str]:
        return iter(self._base)

    def __len__(self) -> int:
        return len(self._base)

    @property
    def changed(self) -> list[str]:
        """Names of the tensors that an adapter changes, sorted."""
        return sorted(self._changes)


@dataclass
class Module:
    """The tensors that the file holds for one module, by what follows the module's name."""

    name: str
    tensors: dict[str, FileTensor] = field(default_factory=dict)


def merge_adapters(base: Checkpoint, folder: Path, weight: float = 1.0) -> MergedCheckpoint:
    """`base` with the adapters in `folder`/0, `folder`/1@0.5, … (or in `folder` itself) merged one after the other.

    weight scales all of them, the number after the at sign its own. Raises StageFailed when an adapter is not for this
    base, is applied in part only, or changes nothing.
    """
    changes: Changes = defaultdict(list)
    for path, own in adapter_folders(folder):
        name = "the adapter" if path == folder else f"adapter {path.name}"
        config = read_config(path / "adapter_config.json", name, weight * own)
        modules = read_modules(path / "adapter_model.safetensors", config)
        check_targets(config, modules)
        for tensor, added in adapter_changes(base, modules, config).items():
            changes[tensor].extend(added)
    return MergedCheckpoint(base, changes, heads_differ(base, changes))


def adapter_folders(folder: Path) -> list[tuple[Path, float]]:
    """The adapters of an input folder, in the order in which they apply, each with its own weight."""
    if (folder / "adapter_config.json").is_file():
        return [(folder, 1.0)]
    found = {}
    for path in (config.parent for config in folder.glob("*/adapter_config.json")):
        number, _, weight = path.name.partition("@")
        found[int(number)] = (path, float(weight or 1))
    if not found:
        raise StageFailed("adapter=merge, and there is no adapter_config.json", "set adapter.path to a PEFT adapter")
    return [found[number] for number in sorted(found)]


def read_modules(path: Path, config: LoraConfig) -> list[Module]:
    """The file's tensors by module. StageFailed for a key that is not PEFT's."""
    modules: dict[str, Module] = {}
    for key, tensor in read_safetensors(path).items():
        if not key.startswith(PREFIX):
            raise StageFailed(f"{config.name}: its tensor {key} is not named as PEFT names them", "save it with PEFT")
        name, leaf = split_key(key.removeprefix(PREFIX))
        modules.setdefault(name, Module(name)).tensors[leaf] = tensor
    if not modules:
        raise StageFailed(f"{config.name} holds no tensors at all", OTHER_BASE)
    return [modules[name] for name in sorted(modules)]


def split_key(key: str) -> tuple[str, str]:
    """("model.layers.0.mlp.up_proj", "lora_A.weight"): the part that belongs to PEFT begins at lora_ or base_layer."""
    parts = key.split(".")
    for at, part in enumerate(parts):
        if part.startswith("lora_") or part == "base_layer":
            return ".".join(parts[:at]), ".".join(parts[at:])
    return ".".join(parts[:-1]), parts[-1]


def check_targets(config: LoraConfig, modules: Sequence[Module]) -> None:
    """Every module kind that the configuration names must be in the file: half an adapter is none."""
    adapted = [module.name for module in modules if any(leaf.startswith("lora_") for leaf in module.tensors)]
    for target in config.targets:
        if not any(name == target or name.endswith(f".{target}") for name in adapted):
            raise StageFailed(
                f"{config.name}: adapter_config.json names {target}, and the weights have nothing for it",
                "the adapter's two files do not belong together, or its weights are incomplete",
            )


def adapter_changes(base: Checkpoint, modules: Sequence[Module], config: LoraConfig) -> Changes:
    """Changes by tensor name. StageFailed unless every module of the adapter finds its place and something changes."""
    changes: Changes = defaultdict(list)
    lost = []
    for module in modules:
        found = _module_changes(base, module, config)
        if found is None:
            lost.append(module.name)
        for name, change in found or ():
            changes[name].append(change)
    if lost:
        raise _does_not_fit(lost, len(modules), config)
    if all(change.is_zero for found in changes.values() for change in found):
        raise StageFailed(f"{config.name} changes nothing: all its differences are zero", "was it ever trained?")
    return changes


def _does_not_fit(lost: Sequence[str], count: int, config: LoraConfig) -> StageFailed:
    made_for = config.values.get("base_model_name_or_path") or "an unnamed model"
    found = (
        f"{count - len(lost)} of its {count} modules are" if len(lost) < count else f"none of its {count} modules is"
    )
    return StageFailed(
        f"{config.name}, made for {made_for}, does not fit: {found} in this model; not {lost[0]}", OTHER_BASE
    )


def _module_changes(base: Checkpoint, module: Module, config: LoraConfig) -> list[tuple[str, Change]] | None:
    """(tensor name, change) pairs of one module, in order; None if the checkpoint has no such module."""
    leaves = dict(module.tensors)
    if module.name.endswith("experts") and any("lora_A" in leaf for leaf in leaves):
        return expert_changes(base, module.name, leaves, config)
    weight, bias = _target(base, module.name), tensor_name(module.name, "bias", base)
    found: list[tuple[str, Change]] = []
    for leaf in ("weight", "base_layer.weight", "bias", "base_layer.bias"):
        if leaf in leaves:
            name = weight if leaf.endswith("weight") else bias
            if name is None:
                return None
            found.append((name, _replacement(base, name, leaves.pop(leaf), config)))
    if any(leaf.startswith("lora_") for leaf in leaves):
        if weight is None:
            return None
        found += _low_rank(base, weight, bias, module.name, leaves, config)
    if leaves:
        raise StageFailed(f"{config.name}: {module.name}.{min(leaves)} is not known here", "merge it with PEFT instead")
    return found


def _target(base: Checkpoint, module: str) -> str | None:
    """The weight of a module; a tied lm_head that the file leaves out is the embedding's tensor for the time being."""
    name = tensor_name(module, "weight", base)
    if name is None and module in HEADS and embedding_name(base) is not None:
        return f"{module}.weight"
    return name


def _base_tensor(base: Checkpoint, name: str) -> LazyTensor:
    if name in base:
        return base[name]
    embedding = embedding_name(base)
    assert embedding is not None, name
    return base[embedding]


def _replacement(base: Checkpoint, name: str, values: FileTensor, config: LoraConfig) -> Replacement:
    shape = _base_tensor(base, name).shape
    if values.shape != shape:
        step = OTHER_BASE
        if values.shape[1:] == shape[1:] and name.endswith((*(f"{e}.weight" for e in EMBEDDINGS), "lm_head.weight")):
            step = "it changes the vocabulary: merge it with PEFT, save its tokenizer beside it, and export that folder"
        raise StageFailed(f"{config.name}: {name} is {list(values.shape)} there and {list(shape)} in the model", step)
    if config.weight != 1.0:
        raise StageFailed(
            f"{config.name} replaces {name} as a whole, which adapter.weight={config.weight:g} cannot scale",
            "use adapter.weight=1",
        )
    return Replacement(values)


def _low_rank(
    base: Checkpoint, weight: str, bias: str | None, module: str, leaves: dict[str, FileTensor], config: LoraConfig
) -> list[tuple[str, Change]]:
    """The low-rank change of a module's weight (DoRA's too) and the shift of its bias; takes them out of `leaves`."""
    tensor = _base_tensor(base, weight)
    is_embedding = "lora_embedding_A" in leaves
    a = leaves.pop("lora_embedding_A" if is_embedding else "lora_A.weight", None)
    b = leaves.pop("lora_embedding_B" if is_embedding else "lora_B.weight", None)
    if a is None or b is None:
        raise StageFailed(f"{config.name}: {module} has only one of its two matrices", "the adapter is incomplete")
    transposed = _check_shapes(tensor, a, b, module, is_embedding, config)
    first, second = to_float32(a.read()), to_float32(b.read())
    left, right = (first.T.copy(), second.T.copy()) if transposed else (second, first)
    change: Change = LowRank(left, right, config.scale(module))
    magnitude = leaves.pop("lora_magnitude_vector", None) or leaves.pop("lora_magnitude_vector.weight", None)
    if bool(config.values.get("use_dora")) != (magnitude is not None):
        raise StageFailed(f"{config.name}: use_dora and the magnitude vector of {module} disagree", "save it again")
    if magnitude is not None:
        assert isinstance(change, LowRank)
        change = Dora(change, to_float32(magnitude.read()).reshape(-1), int(transposed), tensor)
    changes = [(weight, change)]
    if (extra := leaves.pop("lora_B.bias", None)) is not None:
        if bias is None:
            raise StageFailed(f"{config.name} adds to the bias of {module}, which has none", OTHER_BASE)
        changes.append((bias, Shift(to_float32(extra.read()) * np.float32(config.scale(module)))))
    return changes


def _check_shapes(
    tensor: LazyTensor, a: FileTensor, b: FileTensor, module: str, is_embedding: bool, config: LoraConfig
) -> bool:
    """Whether the checkpoint stores [in, out] (Conv1D, embeddings). StageFailed for shapes or ranks that do not fit."""
    rank = config.rank(module)
    if len(a.shape) != 2 or len(b.shape) != 2 or a.shape[0] != b.shape[1]:
        raise StageFailed(
            f"{config.name}: the ranks of {module}'s two matrices differ ({list(a.shape)}, {list(b.shape)})",
            "the adapter is damaged",
        )
    if a.shape[0] != rank:
        raise StageFailed(
            f"{config.name}: {module} has rank {a.shape[0]}, adapter_config.json says {rank}",
            "the adapter's two files do not belong together",
        )
    plain = tensor.shape == (b.shape[0], a.shape[1])
    turned = tensor.shape == (a.shape[1], b.shape[0])
    if not (plain or turned) or (is_embedding and not turned):
        raise StageFailed(
            f"{config.name}: {module} is made for {[b.shape[0], a.shape[1]]}, the model has {list(tensor.shape)}",
            OTHER_BASE,
        )
    if plain and turned:
        return is_embedding or bool(config.values.get("fan_in_fan_out"))
    return turned


def heads_differ(base: Checkpoint, changes: Mapping[str, Sequence[Change]]) -> bool:
    """Whether an adapter gives embedding and lm_head different values, however alike they were."""
    embedding = embedding_name(base)
    head = next((f"{name}.weight" for name in HEADS if f"{name}.weight" in changes), None)
    if embedding is None or (head is None and embedding not in changes):
        return False
    if head is None or embedding not in changes:
        return True
    new_head, new_rows = changes[head][-1], changes[embedding][-1]
    if not (isinstance(new_head, Replacement) and isinstance(new_rows, Replacement)):
        return True
    return new_head.values.read().tobytes() != new_rows.values.read().tobytes()

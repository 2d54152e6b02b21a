"""Model parameter → where its rows are in the checkpoint, by transformers' own conversion tables.

Since transformers 5 a checkpoint's tensors may be renamed, stacked (experts), joined or transposed on loading. Nothing
is loaded here: each such operation becomes a rule for finding rows.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import safe_open
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    Chunk,
    Concatenate,
    MergeModulelist,
    Transpose,
    WeightConverter,
    WeightRenaming,
    rename_source_key,
)

from pipeline.errors import UserError
from pipeline.graph.ir import Part

Shapes = Mapping[str, Sequence[int]]
_LISTED = 5


class Source(Protocol):
    """Where a parameter comes from. shape: the parameter's."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def parts(self, part: Part) -> list[Part]:
        """`part` of this parameter as parts of checkpoint tensors."""


@dataclass(frozen=True)
class Tensor:
    """One checkpoint tensor as it is."""

    name: str
    shape: tuple[int, ...]

    def parts(self, part: Part) -> list[Part]:
        """The same part, of the tensor."""
        return [replace(part, parameter=self.name)]


@dataclass(frozen=True)
class Stacked:
    """Equal tensors along a new first axis."""

    members: tuple[Source, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.members), *self.members[0].shape)

    def parts(self, part: Part) -> list[Part]:
        """The part's `index` chooses the member."""
        if part.index is None:
            raise UserError(
                f"the weight {part.parameter} is stacked from {len(self.members)} tensors and used as a whole"
            )
        return self.members[part.index].parts(replace(part, index=None))


@dataclass(frozen=True)
class Joined:
    """Tensors one after the other along `axis`."""

    members: tuple[Source, ...]
    axis: int

    @property
    def shape(self) -> tuple[int, ...]:
        first = list(self.members[0].shape)
        first[self.axis] = sum(member.shape[self.axis] for member in self.members)
        return tuple(first)

    def parts(self, part: Part) -> list[Part]:
        """The part's rows, member by member."""
        rows_axis = len(self.shape) - (1 if part.transpose or len(self.shape) == 1 else 2)
        if self.axis != rows_axis or part.deinterleave:
            raise UserError(f"the weight {part.parameter} is joined along another axis than its output rows")
        first, last = part.rows or (0, self.shape[self.axis])
        found, start = [], 0
        for member in self.members:
            size = member.shape[self.axis]
            begin, end = max(first - start, 0), min(last - start, size)
            if begin < end:
                found += member.parts(replace(part, rows=None if (begin, end) == (0, size) else (begin, end)))
            start += size
        return found


@dataclass(frozen=True)
class Transposed:
    """A source with its last two axes exchanged."""

    source: Source

    @property
    def shape(self) -> tuple[int, ...]:
        *front, rows, columns = self.source.shape
        return (*front, columns, rows)

    def parts(self, part: Part) -> list[Part]:
        """The same part read the other way round."""
        return self.source.parts(replace(part, transpose=not part.transpose))


@dataclass(frozen=True)
class Rows:
    """Rows start … stop of a source."""

    source: Source
    start: int
    stop: int

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.stop - self.start, *self.source.shape[1:])

    def parts(self, part: Part) -> list[Part]:
        """The part's rows, counted from `start`."""
        first, last = part.rows or (0, self.stop - self.start)
        return self.source.parts(replace(part, rows=(self.start + first, self.start + last)))


class Bindings:
    """The sources of every parameter of a model."""

    def __init__(self, sources: Mapping[str, Source]) -> None:
        self._sources = sources

    def source(self, parameter: str) -> Source:
        """The source of a parameter; UserError that names it if the checkpoint has none."""
        if parameter not in self._sources:
            raise UserError(f"the checkpoint has no tensor for the model's {parameter}")
        return self._sources[parameter]

    def parts(self, parts: Iterable[Part]) -> list[Part]:
        """Parts of parameters as parts of checkpoint tensors."""
        return [found for part in parts for found in self.source(part.parameter).parts(part)]

    def joined(self, parameter: str) -> list[str]:
        """The checkpoint's names of a parameter that is one tensor, or several one after the other along the first
        axis; KeyError if it is none or made otherwise."""
        source = self._sources[parameter]
        members = source.members if isinstance(source, Joined) and source.axis == 0 else (source,)
        if not all(isinstance(member, Tensor) for member in members):
            raise KeyError(parameter)
        return [member.name for member in members if isinstance(member, Tensor)]


def bind(model: PreTrainedModel, tensors: Shapes) -> Bindings:
    """The bindings of `model` to a checkpoint with `tensors` (name → shape).

    Raises UserError for tensors that no parameter of the model takes, and for shapes that differ.
    """
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    transforms = get_model_conversion_mapping(model)
    renamings = [item for item in transforms if isinstance(item, WeightRenaming)]
    converters = [item for item in transforms if isinstance(item, WeightConverter)]
    sources: dict[str, Source] = {}
    groups: dict[tuple[int, str], dict[str, list[str]]] = {}
    for key in sorted(tensors, key=_natural):
        name, pattern = rename_source_key(key, renamings, converters, model.base_model_prefix, wanted)
        if pattern is None:
            sources[name] = Tensor(key, tuple(tensors[key]))
        else:
            number = next(i for i, item in enumerate(converters) if pattern in item.source_patterns)
            groups.setdefault((number, name), {}).setdefault(pattern, []).append(key)
    for (number, name), keys in groups.items():
        sources |= _converted(converters[number], name, keys, tensors)
    _check(model, sources, wanted)
    _tie(model, sources)
    return Bindings(sources)


def _natural(key: str) -> list[Any]:
    """Sorts numbers by value: expert 10 after expert 9."""
    return [int(piece) if piece.isdigit() else piece for piece in re.split(r"(\d+)", key)]


def _converted(converter: Any, name: str, keys: Mapping[str, list[str]], tensors: Shapes) -> dict[str, Source]:
    """The sources of a converter's targets. name: the first target's full name."""
    columns: list[list[Source]] = [
        [Tensor(key, tuple(tensors[key])) for key in keys.get(pattern, [])] for pattern in converter.source_patterns
    ]
    state: Any = columns
    for operation in converter.operations:
        state = _apply(operation, state, name, len(converter.target_patterns))
    flat = [item[0] if isinstance(item, list) else item for item in state]
    targets = [name.replace(_literal(converter.target_patterns[0]), _literal(t)) for t in converter.target_patterns]
    return dict(zip(targets, flat, strict=True))


def _literal(pattern: str) -> str:
    return pattern.lstrip("^").rstrip("$").replace("\\.", ".")


def _apply(operation: Any, state: list[Any], name: str, targets: int) -> list[Any]:
    if isinstance(operation, MergeModulelist) and operation.dim == 0:
        return [Stacked(tuple(members)) for members in state]
    single = [item[0] if isinstance(item, list) else item for item in state]
    if isinstance(operation, Concatenate):
        return [Joined(tuple(single), operation.dim)]
    if isinstance(operation, Transpose) and _last_two(operation, single[0]):
        return [Transposed(item) for item in single]
    if isinstance(operation, Chunk) and operation.dim == 0:
        size = single[0].shape[0] // targets
        return [Rows(single[0], number * size, (number + 1) * size) for number in range(targets)]
    raise UserError(f"the weight {name} is converted on loading by {type(operation).__name__}, which is not supported")


def _last_two(operation: Any, source: Source) -> bool:
    rank = len(source.shape)
    return {operation.dim0 % rank, operation.dim1 % rank} == {rank - 2, rank - 1}


def _check(model: PreTrainedModel, sources: Mapping[str, Source], wanted: Mapping[str, tuple[int, ...]]) -> None:
    ignored = [re.compile(pattern) for pattern in getattr(model, "_keys_to_ignore_on_load_unexpected", None) or []]
    # Written by older versions, never read.
    buffers = re.compile(r"rotary_emb\.inv_freq$|\.masked_bias$|attn\.bias$|embeddings\.position_ids$")
    extra = [
        name
        for name in sources
        if name not in wanted and not buffers.search(name) and not any(pattern.search(name) for pattern in ignored)
    ]
    if extra:
        raise UserError(f"the checkpoint has tensors that the model does not know: {_some(extra)}")
    for name in sorted(set(sources) & set(wanted)):
        if sources[name].shape != wanted[name]:
            raise UserError(
                f"the checkpoint's {name} is {list(sources[name].shape)}, but config.json makes it {list(wanted[name])}"
            )


def _some(names: Sequence[str]) -> str:
    listed = ", ".join(sorted(names)[:_LISTED])
    return listed if len(names) <= _LISTED else f"{listed}, … ({len(names)} in all)"


def _tie(model: PreTrainedModel, sources: dict[str, Source]) -> None:
    """Gives all names of one tied parameter the source of the first that has one. UserError if none has."""
    by_tensor: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        by_tensor.setdefault(id(parameter), []).append(name)
    lost = []
    for names in by_tensor.values():
        owner = next((name for name in names if name in sources), None)
        if owner is None:
            lost.append(names[0])
        else:
            sources.update(dict.fromkeys(names, sources[owner]))
    if lost:
        raise UserError(f"the checkpoint lacks tensors that the model needs: {_some(lost)}")


def small_values(path: Path, bindings: Bindings) -> Callable[[str], torch.Tensor]:
    """A reader of small parameters' and buffers' true values, float32, out of small.safetensors, by name in the model.

    KeyError for a tensor that is not in the file.
    """
    file: Any = safe_open(path, framework="pt")
    known = set(file.keys())

    def read(parameter: str) -> torch.Tensor:
        names = bindings.joined(parameter)
        if not known.issuperset(names):
            raise KeyError(parameter)
        tensors = [file.get_tensor(name) for name in names]
        tensor: torch.Tensor = tensors[0] if len(tensors) == 1 else torch.cat(tensors)
        return tensor.float() if tensor.is_floating_point() else tensor

    return read

"""A Hugging Face model run layer by layer: one decoder layer's weights in memory at a time, in float32.

The model is built without weights. Its own forward is called once with every layer replaced by a recorder: that gives
the hidden states before the first layer and the arguments (masks, rotary tables) that each layer is called with,
whatever the family. After that only layers run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.checkpoint.tensor import Checkpoint
from pipeline.errors import StageFailed, UserError
from pipeline.graph.bindings import Bindings, bind
from pipeline.graph.ir import Part as ParameterPart
from pipeline.graph.towers.loader import loader
from pipeline.weights.layout import Part
from pipeline.weights.parts import part_rows, read_rows

Tensor = torch.Tensor


@dataclass
class Call:
    """Arguments of one layer beside the hidden states."""

    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)


class Stream:
    """model: the causal language model with parameters on the meta device; weights: the checkpoint, which a caller may
    replace tensor by tensor (`patched`) so that later layers see quantised ones; paths: of the model's modules."""

    def __init__(self, config: Any, checkpoint: Checkpoint, trust_remote_code: bool = False) -> None:
        self.model = skeleton(config, trust_remote_code)
        self.checkpoint = checkpoint
        self.patched: dict[str, NDArray[np.float32]] = {}
        shapes = {name: tensor.shape for name, tensor in checkpoint.items()}
        self.bindings: Bindings = bind(self.model, shapes)
        self.prefix, self.layers = _decoder_layers(self.model)
        self.calls: list[Call] = []
        self.paths = {name for name, _ in self.model.named_modules()}

    def layer_path(self, number: int) -> str:
        """Name of a layer's module in the model."""
        return f"{self.prefix}.{number}"

    @contextmanager
    def loaded(self, path: str) -> Iterator[torch.nn.Module]:
        """The module at `path` with its weights, which are dropped afterwards."""
        module = self.model.get_submodule(path)
        self.load(path)
        try:
            yield module
        finally:
            _drop(module)

    def load(self, path: str) -> None:
        """Read (again) all parameters below `path`. Raises StageFailed for values that are not finite."""
        for name, owner, key in _parameters(self.model.get_submodule(path), path):
            owner._parameters[key] = torch.nn.Parameter(self._value(name, owner._parameters[key]), requires_grad=False)

    def begin(self, sequences: Sequence[Sequence[int]]) -> list[Tensor]:
        """The hidden states before the first layer, float32 [1, length, hidden] each; fills `calls`."""
        away = ("lm_head", *_encoders(self.model))
        outside = [path for path in _leaf_paths(self.model, self.prefix) if not path.startswith(away)]
        for path in outside:
            self.load(path)
        try:
            with torch.no_grad():
                return [self._record(list(ids)) for ids in sequences]
        finally:
            for path in outside:
                _drop(self.model.get_submodule(path))

    def run(self, number: int, hidden: Tensor) -> Tensor:
        """Layer `number`, which must be loaded, on hidden states [1, length, hidden]."""
        call = self.calls[number]
        output = self.layers[number](hidden, *call.args, **call.kwargs)
        return cast(Tensor, output[0] if isinstance(output, tuple) else output)

    def final_norm(self) -> str:
        """Path of the norm between the last layer and the output head."""
        base = self.prefix.rpartition(".")[0]
        names = [name for name, module in self.model.get_submodule(base).named_children() if _is_norm(name, module)]
        if len(names) != 1:
            raise UserError(f"cannot tell the final norm of {type(self.model).__name__} among {names or 'its modules'}")
        return f"{base}.{names[0]}"

    def _record(self, ids: list[int]) -> Tensor:
        """Run the model with recorders for layers; whether layers return a tensor or a tuple, they find out."""
        for in_tuple in (False, True):
            recorders = [_Recorder(in_tuple) for _ in self.layers]
            stack = self.model.get_submodule(self.prefix.rpartition(".")[0])
            name = self.prefix.rpartition(".")[2]
            setattr(stack, name, torch.nn.ModuleList(map(_dressed, recorders, self.layers)))
            try:
                whole = stack if _encoders(self.model) else self.model.base_model
                whole(input_ids=torch.tensor([ids]), use_cache=False)
            except _WrongReturn:
                continue
            finally:
                setattr(stack, name, self.layers)
            self.calls = [recorder.call for recorder in recorders]
            assert recorders[0].hidden is not None
            return recorders[0].hidden
        raise UserError(f"the layers of {type(self.model).__name__} cannot be run one by one", "use quant=int4-mse")

    def _value(self, name: str, parameter: Tensor | None) -> Tensor:
        assert parameter is not None
        shape = tuple(parameter.shape)
        if len(shape) == 3:
            members = [self._rows(ParameterPart(name, index=i), name) for i in range(shape[0])]
            return torch.from_numpy(np.stack(members)).reshape(shape)
        return torch.from_numpy(self._rows(ParameterPart(name), name)).reshape(shape)

    def _rows(self, wanted: ParameterPart, name: str) -> NDArray[np.float32]:
        parts = [
            Part(part.parameter, part.rows, part.index, part.transpose, part.deinterleave, part.scale)
            for part in self.bindings.parts([wanted])
        ]
        source: Mapping[str, Any] = _Patched(self.checkpoint, self.patched)
        rows = read_rows(parts, source, 0, sum(part_rows(part, source) for part in parts))
        values = np.array(rows, np.float32)
        if not np.isfinite(values).all():
            raise StageFailed(f"'{name}' holds NaN or infinite weights", "the checkpoint is damaged: fetch it again")
        return values


class _Patched(Mapping[str, Any]):
    """A checkpoint in which some tensors are arrays in memory."""

    def __init__(self, checkpoint: Checkpoint, arrays: Mapping[str, NDArray[np.float32]]) -> None:
        self._checkpoint, self._arrays = checkpoint, arrays

    def __getitem__(self, name: str) -> Any:
        from pipeline.checkpoint.tensor import ArrayTensor

        return ArrayTensor(self._arrays[name]) if name in self._arrays else self._checkpoint[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._checkpoint)

    def __len__(self) -> int:
        return len(self._checkpoint)


class _WrongReturn(Exception):
    """A layer's output was taken apart: the model expects a tuple."""


class _Recorder(torch.nn.Module):
    """Stands for a layer: keeps what it is called with and hands the hidden states on."""

    def __init__(self, in_tuple: bool) -> None:
        super().__init__()
        self.in_tuple = in_tuple
        self.call = Call()
        self.hidden: Tensor | None = None

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        if hidden_states.dim() != 3:
            raise _WrongReturn
        self.hidden, self.call = hidden_states, Call(args, kwargs)
        return (hidden_states,) if self.in_tuple else hidden_states


def _dressed(recorder: _Recorder, layer: torch.nn.Module) -> _Recorder:
    """`recorder` with the plain attributes of `layer` that the model's forward looks at (attention_type)."""
    for key, value in vars(layer).items():
        if not key.startswith("_") and isinstance(value, (str, int, float, bool)) and key not in vars(recorder):
            setattr(recorder, key, value)
    return recorder


def skeleton(config: Any, trust_remote_code: bool = False) -> Any:
    """The model of `config`, with encoders: parameters on the meta device, buffers as its constructors compute them."""
    from transformers.initialization import no_init_weights

    register = torch.nn.Module.register_parameter

    def on_meta(module: torch.nn.Module, name: str, parameter: torch.nn.Parameter | None) -> None:
        register(module, name, parameter)
        if parameter is not None and not parameter.is_meta:  # tied parameters stay one object
            module._parameters[name] = torch.nn.Parameter(parameter.to("meta"), requires_grad=False)

    torch.nn.Module.register_parameter = on_meta  # type: ignore[method-assign, assignment]
    try:
        with no_init_weights():
            build: Any = loader(config).from_config
            model = build(config, dtype=torch.float32, trust_remote_code=trust_remote_code)
    finally:
        torch.nn.Module.register_parameter = register  # type: ignore[method-assign]
    model.tie_weights()  # no_init_weights leaves it out
    return model.eval()


def _decoder_layers(model: Any) -> tuple[str, torch.nn.ModuleList]:
    count = model.config.get_text_config().num_hidden_layers
    encoders = _encoders(model)
    stacks = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.ModuleList) and len(module) == count and "." in name
        if not name.startswith(encoders)
    ]
    stacks = [stack for stack in stacks if stack[0].count(".") == min(name.count(".") for name, _ in stacks)]
    if len(stacks) != 1:
        raise UserError(f"cannot tell the decoder layers of {type(model).__name__}", "use quant=int4-mse")
    return stacks[0]


def _encoders(model: Any) -> tuple[str, ...]:
    """How the names of modules for pictures and sounds begin, which stand beside the decoder; text needs none."""
    kind = model.config.get_text_config().model_type
    if kind == model.config.model_type:
        return ()
    configs = [(name, getattr(module, "config", None)) for name, module in model.named_modules()]
    decoder = next(name for name, config in configs if getattr(config, "model_type", "") == kind)
    around = decoder.rpartition(".")[0]
    names = [f"{around}.{name}" for name, _ in model.get_submodule(around).named_children()]
    return tuple(f"{name}." for name in names if name != decoder)


def _parameters(module: torch.nn.Module, path: str) -> list[tuple[str, torch.nn.Module, str]]:
    """(full name, owning module, key) of every parameter of `module`."""
    return [
        (".".join(filter(None, (path, child_path, key))), child, key)
        for child_path, child in module.named_modules()
        for key, value in child._parameters.items()
        if value is not None
    ]


def _leaf_paths(model: torch.nn.Module, prefix: str) -> list[str]:
    """Modules with parameters of their own outside the decoder layers."""
    return [
        path
        for path, module in model.named_modules()
        if not path.startswith(f"{prefix}.") and any(value is not None for value in module._parameters.values())
    ]


def _drop(module: torch.nn.Module) -> None:
    for child in module.modules():
        for key, value in child._parameters.items():
            if value is not None:
                child._parameters[key] = torch.nn.Parameter(value.to("meta"), requires_grad=False)


def _is_norm(name: str, module: torch.nn.Module) -> bool:
    return "norm" in type(module).__name__.lower() or name in ("ln_f", "final_layer_norm")

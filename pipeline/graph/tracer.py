"""Runs a model on the meta device and writes down every operation as an ONNX-like graph.

A dispatch mode sees the aten operations that any Python code comes down to. Operations on known values only (norm
weights, RoPE tables, masks of ones) are computed at once and become constants; all others are lowered to graph nodes
by the table in `lowering/`. A function mode sees `linear`, `embedding` and the like before they come apart, so that a
product with a parameter becomes a placeholder and its values are never needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from pipeline.errors import UserError
from pipeline.graph.ir import Builder, Graph, Value
from pipeline.graph.moves import cut

_ACTIVE: ContextVar[Tracer | None] = ContextVar("tracer", default=None)
_DTYPES = {
    torch.float32: "float32",
    torch.float64: "float32",
    torch.int64: "int32",
    torch.int32: "int32",
    torch.bool: "bool",
}
_POINTWISE = frozenset(f"aten::{name}" for name in ("add", "sub", "mul", "neg", "pow", "rsqrt", "sigmoid", "silu"))


@dataclass(frozen=True)
class Call:
    """One aten operation: arguments by the schema's names, and what it returns on the meta device."""

    operator: str
    arguments: Mapping[str, Any]
    result: Any

    def __getitem__(self, name: str) -> Any:
        return self.arguments[name]


@dataclass(frozen=True)
class Options:
    """fuse_rope: emit RoPE placeholders (they need the converter's C4 pass). allow_approximate: as in the recipe.

    exact_positions: the graph works out itself where pictures put the tokens after them (`visual.positions`). pictures:
    the model's vision encoder is built, so the decoder meets its rows.
    """

    fuse_rope: bool = True
    allow_approximate: bool = False
    exact_positions: bool = False
    pictures: bool = False


Lowering = Callable[["Tracer", Call], "Value | Sequence[Value]"]
FunctionRule = Callable[..., Any]


class Tracer(Builder):
    """The state of one trace, and the context manager that switches it on.

    lowerings: aten operator name ("aten::mul") → function that emits nodes. functions: torch function → rule that may
    return NotImplemented to let the function run. parameters: id of a parameter on the meta device → its name.
    values: reads the true values of a small parameter by name (KeyError if it is none of the small ones).
    position_limit: the longest sequence that the RoPE tables are right for, if the model's config says more; or 0.
    length: the traced sequence length. slices: id of a tensor → the tensor that it is a slice of, axis, start, stop.
    rotary_pairs: a cos, sin or phasor value → cos and sin of the same angles, laid out in halves. approximations: what
    the graph leaves out of the model, with the user's consent.
    """

    def __init__(
        self,
        lowerings: Mapping[str, Lowering],
        functions: Mapping[Callable[..., Any], FunctionRule],
        parameters: Mapping[int, str],
        values: Callable[[str], torch.Tensor],
        options: Options,
    ) -> None:
        super().__init__(Graph())
        self.options = options
        self.length = 0
        self.position_limit = 0
        self.notes: list[str] = []
        self.approximations: list[str] = []
        self.rotary_pairs: dict[Value, tuple[Value, Value]] = {}
        self.is_paused = False
        self.slices: dict[int, tuple[torch.Tensor, int, int, int]] = {}
        self._written: dict[int, dict[int, tuple[int, Value]]] = {}
        self.lowerings = lowerings
        self.functions = functions
        self.parameters = parameters
        self._values = values
        self._known: dict[int, tuple[torch.Tensor, Value]] = {}
        self._real: dict[str, torch.Tensor] = {}
        self._stack: ExitStack | None = None

    def __enter__(self) -> Tracer:
        self._stack = ExitStack()
        self._stack.enter_context(torch.no_grad())
        self._stack.enter_context(_set_active(self))
        self._stack.enter_context(_FunctionMode(self))
        self._stack.enter_context(_DispatchMode(self))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        assert self._stack is not None
        self._stack.close()

    # ------------------------------------------------------------------ values

    def new_input(self, name: str, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        """Declares a graph input; returns the tensor that stands for it."""
        tensor = torch.empty(tuple(shape), dtype=dtype, device="meta")
        value = Value(tuple(shape), _DTYPES[dtype], name=name)
        self.graph.inputs[name] = value
        return self.bind(tensor, value)

    def bind(self, tensor: torch.Tensor, value: Value) -> torch.Tensor:
        """Says that `tensor` stands for `value`; returns the tensor."""
        self._known[id(tensor)] = (tensor, value)
        return tensor

    def tensor(self, value: Value) -> torch.Tensor:
        """A new tensor that stands for `value`."""
        dtype = {"float32": torch.float32, "int32": torch.int64, "bool": torch.bool}[value.dtype]
        return self.bind(torch.empty(_plain(value.shape), dtype=dtype, device="meta"), value)

    def is_symbolic(self, tensor: torch.Tensor) -> bool:
        """True if the tensor depends on the graph's inputs."""
        return id(tensor) in self._known

    def value(self, argument: Any, dtype: str = "float32") -> Value:
        """The graph value of a tensor or number; known tensors become constants."""
        if isinstance(argument, torch.Tensor):
            if id(argument) in self._known:
                return self._known[id(argument)][1]
            real = self.real(argument).detach()
            kind = _DTYPES[real.dtype]
            return Value(tuple(real.shape), kind, _finite(np.ascontiguousarray(real.numpy()).astype(kind)))
        return Value((), dtype, _finite(np.asarray(argument, dtype)))

    def real(self, tensor: torch.Tensor) -> torch.Tensor:
        """The tensor with its true values. UserError for a large parameter, which the graph may not hold."""
        if not tensor.is_meta:
            return tensor
        name = self.parameters.get(id(tensor))
        if name is None:
            raise UserError(
                f"the model works with a tensor {list(tensor.shape)} whose values are not known to the trace"
            )
        if name not in self._real:
            try:
                self._real[name] = self._values(name)
            except KeyError:
                raise UserError(
                    f"the model uses its weight {name} {list(tensor.shape)} other than in a matrix product or a "
                    "lookup, which the exporter cannot express"
                ) from None
        return self._real[name]

    def parameter_name(self, tensor: Any) -> str | None:
        """The name of a parameter on the meta device; None for anything else."""
        return self.parameters.get(id(tensor)) if isinstance(tensor, torch.Tensor) else None

    def nested(self) -> Tracer:
        """A tracer for a graph of its own (an expert's), with the same rules."""
        inner = Tracer(self.lowerings, self.functions, self.parameters, self._values, self.options)
        inner.length = self.length
        return inner

    # ------------------------------------------------------------------ what the placeholders' emitters need

    def note(self, text: str) -> None:
        """A remark about the graph, kept once."""
        if text not in self.notes:
            self.notes.append(text)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """While open, torch computes as usual and nothing is recorded."""
        before, self.is_paused = self.is_paused, True
        try:
            yield
        finally:
            self.is_paused = before

    # ------------------------------------------------------------------ called by the modes

    def dispatch(self, operator: torch._ops.OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Computes an operation on known values, or records it."""
        if not any(id(leaf) in self._known for leaf in _leaves((*args, *kwargs.values()))):
            return self._compute(operator, args, kwargs)
        result = _like_operands(operator, args)
        if result is None:
            result = _on_meta_device(operator, args, kwargs)
        return self._record(operator, args, kwargs, result)

    def _compute(self, operator: torch._ops.OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        def known(leaf: Any) -> Any:
            if isinstance(leaf, torch.Tensor):
                return self.real(leaf)
            return torch.device("cpu") if isinstance(leaf, torch.device) else leaf

        return operator(*tree_map(known, list(args)), **tree_map(known, dict(kwargs)))

    def _record(
        self, operator: torch._ops.OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any
    ) -> Any:
        schema = operator._schema
        name = schema.name
        bound = {item.name: _default(item) for item in schema.arguments}
        bound.update(zip(bound, args, strict=False))
        bound.update(kwargs)
        in_place = name.endswith("_") and not name.endswith("__")
        lowering = self.lowerings.get(name) or (self.lowerings.get(name.rstrip("_")) if in_place else None)
        if lowering is None:
            raise UserError(f"the model uses {name.replace('::', '.')}, which the exporter cannot express in ONNX")
        values = lowering(self, Call(name, bound, result))
        if in_place and name not in self.lowerings:
            return self._write(bound["self"], values if isinstance(values, Value) else values[0])
        return self._bind_results(result, values)

    def _write(self, target: torch.Tensor, value: Value) -> torch.Tensor:
        """An in-place operation: `target` stands for `value` from now on, and what it is a slice of changes with it."""
        self.bind(target, value)
        piece = self.slices.get(id(target))
        if piece is None:
            return target
        base, axis, start, stop = piece
        if id(base) in self.slices:
            raise UserError("the model writes into a slice of a slice, which the graph cannot express")
        pieces = self._written.setdefault(id(base), {})
        pieces[start] = (stop, value)
        self.bind(base, self._joined(base, axis, pieces))
        return target

    def _joined(self, base: torch.Tensor, axis: int, pieces: Mapping[int, tuple[int, Value]]) -> Value:
        original, parts, place = self.value(base), [], 0
        for start, (stop, value) in sorted(pieces.items()):
            if start > place:
                parts.append(cut(self, original, axis, place, start))
            parts.append(value)
            place = stop
        if place < base.shape[axis]:
            parts.append(cut(self, original, axis, place, base.shape[axis]))
        return parts[0] if len(parts) == 1 else self.emit("Concat", parts, base.shape, parts[0].dtype, axis=axis)

    def _bind_results(self, result: Any, values: Value | Sequence[Value]) -> Any:
        leaves, spec = tree_flatten(result)
        listed: Iterable[Value] = [values] if isinstance(values, Value) else values
        for leaf, value in zip(leaves, listed, strict=True):
            self.bind(leaf, value)
        return tree_unflatten(leaves, spec)


def active() -> Tracer:
    """The tracer that is running; RuntimeError outside of a trace."""
    tracer = _ACTIVE.get()
    if tracer is None:
        raise RuntimeError("no trace is running")
    return tracer


@contextmanager
def _set_active(tracer: Tracer) -> Iterator[None]:
    token = _ACTIVE.set(tracer)
    try:
        yield
    finally:
        _ACTIVE.reset(token)


class _DispatchMode(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, tracer: Tracer) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._tracer = tracer

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self._tracer.is_paused:
            return func(*args, **(kwargs or {}))
        return self._tracer.dispatch(func, args, kwargs or {})


class _FunctionMode(TorchFunctionMode):
    def __init__(self, tracer: Tracer) -> None:
        super().__init__()
        self._tracer = tracer

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        rule = self._tracer.functions.get(func)
        if rule is not None and not self._tracer.is_paused:
            result = rule(self._tracer, *args, **(kwargs or {}))
            if result is not NotImplemented:
                return result
        return func(*args, **(kwargs or {}))


def _leaves(items: Iterable[Any]) -> Iterator[torch.Tensor]:
    """The tensors among arguments, which aten nests in lists at most."""
    for item in items:
        if isinstance(item, torch.Tensor):
            yield item
        elif isinstance(item, list | tuple):
            yield from _leaves(item)


def _like_operands(operator: torch._ops.OpOverload, args: Sequence[Any]) -> torch.Tensor | None:
    """The result of the commonest float operations without asking torch, whose meta kernels are slow Python."""
    if operator._schema.name == "aten::mean":
        return _like_mean(args)
    if operator._schema.name not in _POINTWISE:
        return None
    tensors = [item for item in args if isinstance(item, torch.Tensor)]
    if any(tensor.dtype != torch.float32 for tensor in tensors):
        return None
    first = tensors[0].shape
    shape = first if all(item.shape == first for item in tensors) else np.broadcast_shapes(*(t.shape for t in tensors))
    return torch.empty(shape, device="meta")


def _like_mean(args: Sequence[Any]) -> torch.Tensor | None:
    """RMSNorm's mean(-1, keepdim=True); None for any other."""
    tensor, axes, keep = (*args, None, None)[:3]
    if len(args) != 3 or list(axes or []) != [-1] or not keep or tensor.dtype != torch.float32:
        return None
    return torch.empty((*tensor.shape[:-1], 1), device="meta")


def _on_meta_device(operator: torch._ops.OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    if operator._schema.name == "aten::_local_scalar_dense":
        raise UserError("the model decides by a computed number what to do next, which no fixed graph can follow")
    try:
        return operator(*tree_map(_on_meta, list(args)), **tree_map(_on_meta, dict(kwargs)))
    except NotImplementedError:
        name = operator._schema.name.replace("::", ".")
        raise UserError(f"the size of what {name} gives depends on values, which no fixed graph can follow") from None


def _on_meta(leaf: Any) -> Any:
    if isinstance(leaf, torch.Tensor) and not leaf.is_meta:
        return torch.empty_strided(leaf.shape, leaf.stride(), dtype=leaf.dtype, device="meta")
    return torch.device("meta") if isinstance(leaf, torch.device) else leaf


def _finite(data: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Infinities become the largest floats: the engine makes NaN of inf · 0, and JSON knows no infinity."""
    if data.dtype != np.float32 or np.isfinite(data).all():
        return data
    largest = np.finfo(np.float32).max
    return np.asarray(np.clip(data, -largest, largest))


def _default(argument: Any) -> Any:
    return argument.default_value if argument.has_default_value() else None


def _plain(shape: Sequence[Any]) -> tuple[int, ...]:
    return tuple(int(size) for size in shape)

"""Matrix products with a parameter, and lookups in one, caught before torch takes them apart."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F

from pipeline.errors import UserError
from pipeline.graph.attention import scaled_dot_product_attention
from pipeline.graph.ir import CUSTOM_DOMAIN, Linear, Part, Table, Value
from pipeline.graph.moves import reshape
from pipeline.graph.tracer import Tracer


@dataclass
class Head:
    """The model's ends: the token embedding that stands before the graph, and the output head.

    embedding: id of the embedding's parameter. head: name of the output head's parameter. token_ids: the tensor that
    the model takes for ids. embedded: graph input that stands for their embeddings. logits_index: graph input, int32
    [1]: the first row (from the end when negative) of which logits are wanted.
    """

    embedding: int
    head_weight: int
    head: str
    token_ids: torch.Tensor
    embedded: torch.Tensor
    logits_index: torch.Tensor
    applied: bool = field(default=False)


def function_rules(head: Head, modules: Mapping[str, type]) -> dict[Callable[..., Any], Callable[..., Any]]:
    """The rules for the tracer's function mode. modules: parameter name → class of the module that owns it."""
    linears = _Linears(head, modules)
    return {
        F.linear: linears.linear,
        torch.addmm: linears.addmm,
        F.embedding: _Embeddings(head).embedding,
        torch.matmul: linears.matmul,
        torch.Tensor.matmul: linears.matmul,
        torch.Tensor.__matmul__: linears.matmul,
        torch.Tensor.T.__get__: linears.transposed,  # type: ignore[attr-defined]
        F.scaled_dot_product_attention: scaled_dot_product_attention,
        torch.Tensor.__getitem__: _getitem,
    }


def _getitem(tracer: Tracer, tensor: torch.Tensor, index: Any) -> Any:
    """tensor[..., [i, j]]: torch would make the list a tensor of the tensor's own device, where its values are lost."""
    items = index if isinstance(index, tuple) else (index,)
    if not tracer.is_symbolic(tensor) or not any(isinstance(item, list) for item in items):
        return NotImplemented
    return tensor[tuple(torch.tensor(item) if isinstance(item, list) else item for item in items)]


@dataclass
class _Linears:
    head: Head
    modules: Mapping[str, type]
    _turned: dict[int, tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict)

    def linear(self, tracer: Tracer, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> Any:
        name = tracer.parameter_name(weight)
        if name is None or not tracer.is_symbolic(x):
            return NotImplemented
        parameter = name
        if id(weight) == self.head.head_weight and not self.head.applied:
            self.head.applied = True
            parameter = self.head.head
            x = _wanted_rows(tracer, x, self.head.logits_index)
        keep = not issubclass(self.modules[parameter], torch.nn.Linear)
        return _emit(tracer, x, weight, parameter, bias, keep, transpose=False)

    def transposed(self, tracer: Tracer, tensor: torch.Tensor) -> Any:
        """parameter.T, which only `matmul` may read."""
        if tracer.parameter_name(tensor) is None or tensor.dim() != 2:
            return NotImplemented
        result = torch.empty_strided(tensor.shape[::-1], (1, tensor.shape[1]), device="meta")
        self._turned[id(result)] = (result, tensor)
        return result

    def matmul(self, tracer: Tracer, x: torch.Tensor, other: torch.Tensor) -> Any:
        """x @ parameter.T, and x @ parameter with its rows as inputs."""
        if id(other) in self._turned:
            return self.linear(tracer, x, self._turned[id(other)][1])
        name = tracer.parameter_name(other)
        if name is None or not tracer.is_symbolic(x) or other.dim() != 2:
            return NotImplemented
        keep = not issubclass(self.modules[name], torch.nn.Linear)
        return _emit(tracer, x, other, name, None, keep, transpose=True)

    def addmm(self, tracer: Tracer, bias: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, **scales: Any) -> Any:
        """GPT-2's Conv1D: bias + x @ weight with weight [in, out]."""
        name = tracer.parameter_name(weight)
        if name is None or not tracer.is_symbolic(x) or scales:
            return NotImplemented
        return _emit(tracer, x, weight, name, bias, keep=False, transpose=True)


def _emit(
    tracer: Tracer,
    x: torch.Tensor,
    weight: torch.Tensor,
    parameter: str,
    bias: torch.Tensor | None,
    keep: bool,
    transpose: bool,
) -> torch.Tensor:
    out_features, in_features = weight.shape[::-1] if transpose else weight.shape
    parts = (Part(parameter, transpose=transpose),)
    name = parameter.removesuffix(".weight")
    bias_parts = None
    if bias is not None:
        bias_name = tracer.parameter_name(bias)
        if bias_name is None:
            raise UserError(f"the bias of {name} is not a parameter of the model")
        bias_parts = (Part(bias_name),)
    linear = Linear(name, int(out_features), int(in_features), parts, bias_parts, keep)
    shape = (*x.shape[:-1], int(out_features))
    return tracer.tensor(fake_linear(tracer, tracer.value(x), linear, shape))


def fake_linear(tracer: Tracer, x: Value, linear: Linear, shape: tuple[int, ...]) -> Value:
    """The placeholder of a matrix product; its output has `shape`."""
    flat = shape
    if len(shape) > 3 or any(size != 1 for size in shape[:-2]):
        flat = (_count(shape[:-1]), shape[-1])
    value = tracer.emit("FakeLinear", [x], flat, domain=CUSTOM_DOMAIN, linear=linear)
    return reshape(tracer, value, shape)


def _count(shape: tuple[int, ...]) -> int:
    total = 1
    for size in shape:
        total *= int(size)
    return total


def _wanted_rows(tracer: Tracer, x: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Rows index … of the final hidden states [1, sequence, hidden], which are a graph output too."""
    rows = tracer.emit("Tail", [tracer.value(x), tracer.value(index)], x.shape)
    tracer.graph.outputs["hidden_states"] = rows
    return tracer.tensor(rows)


@dataclass
class _Embeddings:
    head: Head

    def embedding(self, tracer: Tracer, ids: torch.Tensor, weight: torch.Tensor, *_: Any, **__: Any) -> Any:
        if id(weight) == self.head.embedding:
            if not self._are_token_ids(tracer, ids):
                raise UserError("the model embeds other ids than its input's, which the engine cannot do")
            return self.head.embedded
        name = tracer.parameter_name(weight)
        if name is None or not tracer.is_symbolic(ids):
            return NotImplemented
        rows, columns = (int(size) for size in weight.shape)
        table = Table(name.removesuffix(".weight"), rows, columns, name)
        tracer.graph.tables[table.name] = table
        shape = (*ids.shape, columns)
        value = tracer.emit(
            "Table", [tracer.value(ids)], shape, domain=CUSTOM_DOMAIN, name=table.name, rows=rows, columns=columns
        )
        return tracer.tensor(value)

    def _are_token_ids(self, tracer: Tracer, ids: torch.Tensor) -> bool:
        """True for the model's ids, reshaped or not."""
        if not tracer.is_symbolic(ids):
            return False
        producers, value = tracer.graph.producers(), tracer.value(ids)
        while value in producers and producers[value].op == "Reshape":
            value = producers[value].inputs[0]
        return value is tracer.value(self.head.token_ids)

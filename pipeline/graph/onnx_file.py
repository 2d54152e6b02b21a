"""The graph as an ONNX file (opset 15), placeholders in a domain of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from pipeline.errors import UserError
from pipeline.graph.ir import CUSTOM_DOMAIN, Graph, Grows, Node, Size, Value

OPSET = 15
_TYPES = {
    "float32": onnx.TensorProto.FLOAT,
    "int32": onnx.TensorProto.INT32,
    "bool": onnx.TensorProto.BOOL,
}
_TO_THE_END = 2**31 - 1


def write(graph: Graph, path: Path, name: str = "llm") -> None:
    """Writes `graph` to `path`; errors as `serialise`."""
    path.write_bytes(serialise(graph, name))


def serialise(graph: Graph, name: str = "llm") -> bytes:
    """The ONNX file of `graph`. Raises UserError for a size that grows where ONNX wants a fixed one."""
    writer = _Writer()
    for label, value in [*graph.inputs.items(), *graph.outputs.items()]:
        writer.names[value] = label
    nodes = [proto for node in graph.nodes for proto in writer.node(node)]
    proto = helper.make_graph(
        [*writer.scalars, *nodes],
        name,
        [_info(label, value) for label, value in graph.inputs.items()],
        [_info(label, value) for label, value in graph.outputs.items()],
        list(writer.constants.values()),
    )
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(CUSTOM_DOMAIN, 1)]
    model = helper.make_model(proto, opset_imports=opsets, ir_version=8, producer_name="pipeline")
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def _info(name: str, value: Value) -> Any:
    shape = [size if isinstance(size, int) else "sequence" for size in value.shape]
    return helper.make_tensor_value_info(name, _TYPES[value.dtype], shape)


class _Writer:
    def __init__(self) -> None:
        self.names: dict[Value, str] = {}
        self.constants: dict[tuple[Any, ...], onnx.TensorProto] = {}
        self.scalars: list[onnx.NodeProto] = []
        self._scalars: dict[tuple[Any, ...], str] = {}
        self._count = 0

    def node(self, node: Node) -> list[onnx.NodeProto]:
        """The ONNX nodes of one node: sizes become constant inputs where ONNX has them so."""
        outputs = [self.name(value) for value in node.outputs]
        inputs = [self.name(value) for value in node.inputs]
        if node.domain:
            return [self._placeholder(node, inputs, outputs)]
        special = _SPECIAL.get(node.op)
        if special is not None:
            return special(self, node, inputs, outputs)
        return [self.make(node.op, inputs, outputs, **node.attributes)]

    def name(self, value: Value) -> str:
        """The name of a value; a constant becomes an initialiser, once for equal contents."""
        if value in self.names:
            return self.names[value]
        if value.data is not None:
            return self.constant(value.data)
        self._count += 1
        self.names[value] = f"v{self._count}"
        return self.names[value]

    def constant(self, data: npt.NDArray[Any]) -> str:
        """The name of an initialiser with this content."""
        key = (data.dtype.str, data.shape, data.tobytes())
        if data.ndim == 0:
            return self._scalar(key, data)
        if key not in self.constants:
            self.constants[key] = numpy_helper.from_array(np.ascontiguousarray(data), f"c{len(self.constants)}")
        return str(self.constants[key].name)

    def _scalar(self, key: tuple[Any, ...], data: npt.NDArray[Any]) -> str:
        # The converter's fusions (RMSNorm, GELU) recognise numbers in Constant nodes only, not in initialisers.
        if key not in self._scalars:
            self._scalars[key] = f"n{len(self._scalars)}"
            tensor = numpy_helper.from_array(data)
            self.scalars.append(helper.make_node("Constant", [], [self._scalars[key]], value=tensor))
        return self._scalars[key]

    def ints(self, values: Iterable[int]) -> str:
        """The name of an int64 vector."""
        return self.constant(np.asarray(list(values), np.int64))

    def make(self, op: str, inputs: list[str], outputs: list[str], **attributes: Any) -> onnx.NodeProto:
        """A node of the standard domain, named after its first output."""
        return helper.make_node(op, inputs, outputs, name=f"{op}.{outputs[0]}", **attributes)

    def _placeholder(self, node: Node, inputs: list[str], outputs: list[str]) -> onnx.NodeProto:
        attributes: dict[str, Any] = dict(node.attributes)
        if node.linear is not None:
            attributes |= {
                "name": node.linear.name,
                "in_features": node.linear.in_features,
                "out_features": node.linear.out_features,
                "has_bias": int(node.linear.bias is not None),
                "rank": node.output.rank,
            }
        label = str(attributes["name"])
        proto = helper.make_node(node.op, inputs, outputs, name=f"{label}.{outputs[0]}", domain=CUSTOM_DOMAIN)
        proto.attribute.extend(helper.make_attribute(key, attributes[key]) for key in sorted(attributes))
        return proto


def _fixed(size: Any, where: str) -> int:
    if not isinstance(size, int):
        raise UserError(f"the model's {where} has a size that depends on the sequence length: {size}")
    return size


def _reshape(writer: _Writer, node: Node, inputs: list[str], outputs: list[str]) -> list[onnx.NodeProto]:
    return [writer.make("Reshape", [*inputs, writer.ints(reshape_sizes(node))], outputs)]


def reshape_sizes(node: Node) -> list[int]:
    """Reshape's sizes with −1 for the one that grows, and 0 for others that stand where they stood before."""
    target: tuple[Size, ...] = node.attributes["shape"]  # type: ignore[assignment]
    source = node.inputs[0].shape
    growing = [axis for axis, size in enumerate(target) if not isinstance(size, int)]
    kept = [axis for axis in growing if axis < len(source) and source[axis] == target[axis]][: len(growing) - 1]
    if len(growing) - len(kept) > 1:
        raise UserError(f"the model reshapes {list(source)} to {list(target)}: more than one size grows")
    return [0 if axis in kept else size if isinstance(size, int) else -1 for axis, size in enumerate(target)]


def _slice(writer: _Writer, node: Node, inputs: list[str], outputs: list[str]) -> list[onnx.NodeProto]:
    axis, step = (_fixed(node.attributes[key], "slice") for key in ("axis", "step"))
    length = node.inputs[0].shape[axis]
    start = _bound(node.attributes["start"], length)
    stop = _TO_THE_END if node.attributes["stop"] == length else _bound(node.attributes["stop"], length)
    bounds = [writer.ints([number]) for number in (start, stop, axis, step)]
    return [writer.make("Slice", [*inputs, *bounds], outputs)]


def _bound(size: Any, length: Size) -> int:
    """A slice's bound; one that grows as the axis does is counted from its end."""
    if isinstance(size, Grows) and isinstance(length, Grows) and size.factor == length.factor and size != length:
        return size.offset - length.offset
    return _fixed(size, "slice")


def _expand(writer: _Writer, node: Node, inputs: list[str], outputs: list[str]) -> list[onnx.NodeProto]:
    sizes = []
    for size, before in zip(node.attributes["shape"], node.inputs[0].shape, strict=True):  # type: ignore[arg-type]
        sizes.append(1 if size == before else _fixed(size, "expand"))  # expanding to 1 leaves an axis as it is
    return [writer.make("Expand", [*inputs, writer.ints(sizes)], outputs)]


def _tail(writer: _Writer, node: Node, inputs: list[str], outputs: list[str]) -> list[onnx.NodeProto]:
    index = f"{outputs[0]}.index"
    cast = writer.make("Cast", [inputs[1]], [index], to=onnx.TensorProto.INT64)
    bounds = [index, writer.ints([_TO_THE_END]), writer.ints([1])]
    return [cast, writer.make("Slice", [inputs[0], *bounds], outputs)]


def _cast(writer: _Writer, node: Node, inputs: list[str], outputs: list[str]) -> list[onnx.NodeProto]:
    return [writer.make("Cast", inputs, outputs, to=_TYPES[str(node.attributes["to"])])]


def _filled_like(writer: _Writer, node: Node, inputs: list[str], outputs: list[str]) -> list[onnx.NodeProto]:
    sizes, dtype = f"{outputs[0]}.sizes", np.dtype(node.output.dtype)
    value = numpy_helper.from_array(np.asarray([node.attributes["value"]], dtype))
    return [
        writer.make("Shape", inputs, [sizes]),
        writer.make("ConstantOfShape", [sizes], outputs, value=value),
    ]


def _pad(writer: _Writer, node: Node, inputs: list[str], outputs: list[str]) -> list[onnx.NodeProto]:
    pads: Any = node.attributes["pads"]
    fill = writer.constant(np.asarray(node.attributes["value"], node.output.dtype))
    return [writer.make("Pad", [*inputs, writer.ints(pads), fill], outputs, mode="constant")]


def _sum(writer: _Writer, node: Node, inputs: list[str], outputs: list[str]) -> list[onnx.NodeProto]:
    axes: Any = node.attributes["axes"]
    return [writer.make("ReduceSum", [*inputs, writer.ints(axes)], outputs, keepdims=node.attributes["keepdims"])]


def _cumsum(writer: _Writer, node: Node, inputs: list[str], outputs: list[str]) -> list[onnx.NodeProto]:
    axis = writer.constant(np.asarray(node.attributes["axis"], np.int64))
    return [writer.make("CumSum", [*inputs, axis], outputs)]


def _topk(writer: _Writer, node: Node, inputs: list[str], outputs: list[str]) -> list[onnx.NodeProto]:
    attributes = {key: node.attributes[key] for key in ("axis", "largest", "sorted")}
    places = f"{outputs[1]}.long"
    sizes, count = _count(writer, node, inputs[0], f"{outputs[0]}.count")
    topk = writer.make("TopK", [*inputs, count], [outputs[0], places], **attributes)
    return [*sizes, topk, writer.make("Cast", [places], [outputs[1]], to=onnx.TensorProto.INT32)]


def _count(writer: _Writer, node: Node, source: str, name: str) -> tuple[list[onnx.NodeProto], str]:
    """(nodes, name) of a top-k's number of elements; one that grows must be the whole axis, as a sort's is."""
    count, axis = node.attributes["k"], int(node.attributes["axis"])  # type: ignore[arg-type]
    if not isinstance(count, Grows) or count != node.inputs[0].shape[axis]:
        return [], writer.ints([_fixed(count, "top-k")])
    shape = writer.make("Shape", [source], [f"{name}.shape"])
    return [shape, writer.make("Gather", [f"{name}.shape", writer.ints([axis])], [name])], name


def _argmax(writer: _Writer, node: Node, inputs: list[str], outputs: list[str]) -> list[onnx.NodeProto]:
    places = f"{outputs[0]}.long"
    argmax = writer.make("ArgMax", inputs, [places], **node.attributes)
    return [argmax, writer.make("Cast", [places], outputs, to=onnx.TensorProto.INT32)]


_SPECIAL: dict[str, Callable[[_Writer, Node, list[str], list[str]], list[onnx.NodeProto]]] = {
    "ArgMax": _argmax,
    "Cast": _cast,
    "CumSum": _cumsum,
    "Expand": _expand,
    "FilledLike": _filled_like,
    "Pad": _pad,
    "ReduceSum": _sum,
    "Reshape": _reshape,
    "Slice": _slice,
    "Tail": _tail,
    "TopK": _topk,
}

"""A check, not a rewriting: nothing but attention may bring positions together.

The engine feeds a prompt at once and then token by token. An operation along the sequence (a softmax over scores, a
convolution, a shift) would see only the new token then, and the answers would be wrong without any error.
"""

from __future__ import annotations

from pipeline.errors import UserError
from pipeline.graph.ir import CUSTOM_DOMAIN, Graph, Grows, Node, Value

_ALONG_AXES = ("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL2")
_ALONG_AXIS = ("Softmax", "CumSum", "TopK", "ArgMax", "Slice", "Concat", "GatherElements")
_NEXT_STEP = "choose a model whose only memory of earlier tokens is attention's keys and values"


def check_positions(graph: Graph) -> None:
    """Raises UserError that names the operation."""
    for node in graph.nodes:
        if node.domain == CUSTOM_DOMAIN or _reads_mask(graph, node) or node in graph.within_run:
            continue
        if any(_grows_twice(value) for value in node.outputs):
            raise UserError(
                "the model computes something for every pair of positions outside of its attention function, so the "
                "engine could not remember it from token to token",
                _NEXT_STEP,
            )
        if node.op == "MatMul" and any(value.data is not None for value in node.inputs):
            raise UserError(
                f"the model multiplies by a matrix {list(node.inputs[1].shape)} that is no weight of a linear layer, "
                "which the graph cannot hold"
            )
        if any(_grows(node, axis) for axis in _mixed_axes(node)):
            raise UserError(f"the model's {node.op} runs along the sequence, outside of its attention", _NEXT_STEP)


def _reads_mask(graph: Graph, node: Node) -> bool:
    return graph.inputs.get("attention_mask") in node.inputs


def _grows_twice(value: Value) -> bool:
    growing = [size for size in value.shape if isinstance(size, Grows)]
    return len(growing) > 1


def _mixed_axes(node: Node) -> list[int]:
    """The axes of the first input along which elements come together."""
    if node.op in _ALONG_AXES:
        return list(node.attributes["axes"])  # type: ignore[arg-type]
    if node.op in _ALONG_AXIS:
        return [int(node.attributes["axis"])]  # type: ignore[arg-type]
    if node.op == "MatMul":
        return [node.inputs[0].rank - 1]
    if node.op == "Gather" and node.inputs[0].data is None:
        return [int(node.attributes["axis"])]  # type: ignore[arg-type]
    return []


def _grows(node: Node, axis: int) -> bool:
    shape = node.inputs[0].shape
    return isinstance(shape[axis], Grows)

"""A split LoRA: beside an adapted linear two small ones, whose product is added to its output.

The addition stands directly behind the convolution, before the C4 pass rewires consumers: whoever reads the linear's
output reads the sum. (An adapter patched in after that pass misses the consumers that the pass has rewired.)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.errors import StageFailed
from pipeline.mnn import flatbuffer, schema
from pipeline.mnn.flatbuffer import Table
from pipeline.mnn.rewrite.graph import Json, Scope, node, packed_input

F32 = npt.NDArray[np.float32]
Values = Mapping[str, tuple[F32, F32]]
"""Weights and biases of the adapter's convolutions, by operator."""


def add_low_rank(name: str, source: int, product: int, shape: tuple[int, int], scope: Scope) -> tuple[list[Json], int]:
    """Operators that add the adapter's part to tensor `product` [rows, out, 1, 1] (NC4HW4), and the sum's tensor.

    source: the linear's input as the placeholder had it; it is packed a second time here, since the C4 pass rewires a
    packed tensor for one reader only. shape: (out_features, in_features). Without an adapter for `name`:
    no operators, and `product` itself. Raises StageFailed for an adapter of another shape.
    """
    change = scope.adapter.get(name)
    if change is None:
        return [], product
    rank = change.down.shape[0]
    if change.down.shape != (rank, shape[1]) or change.up.shape != (shape[0], rank):
        found = f"{list(change.up.shape)} x {list(change.down.shape)}"
        raise StageFailed(f"link: the adapter of {name} is {found}, the linear {list(shape)}")
    scope.adapted.add(name)
    before, packed = packed_input(f"{name}/lora", source, shape[1], scope)
    down, up, total = (scope.new_tensor(f"{name}/lora_{step}") for step in ("down", "up", "sum"))
    first, second = (f"{name}/lora_{step}" for step in ("down", "up"))
    scope.values[first] = change.down, np.zeros(rank, np.float32)
    scope.values[second] = change.up, np.zeros(shape[0], np.float32) if change.bias is None else change.bias
    add = {"opType": "ADD", "T": "DT_FLOAT", "activationType": 0}
    return [
        *before,
        node(first, "Convolution", [packed], [down], "Convolution2D", _convolution(first, scope)),
        node(second, "Convolution", [down], [up], "Convolution2D", _convolution(second, scope)),
        node(f"{name}/lora_sum", "BinaryOp", [product, up], [total], "BinaryOp", add),
    ], total


def _convolution(name: str, scope: Scope) -> Json:
    """A float 1x1 convolution with its weights inline: the weight file is the base's and stays as it is.

    The values themselves are written into the finished file (`fill`); in JSON each takes twenty bytes. No two
    operators have the same stand-ins, or the converter would take them for one.
    """
    matrix, bias = scope.values[name]
    rows, columns = (int(size) for size in matrix.shape)
    if not (np.isfinite(matrix).all() and np.isfinite(bias).all()):
        raise StageFailed(f"link: the adapter of {name} holds values that are not finite")
    common = {
        "dilateX": 1, "dilateY": 1, "strideX": 1, "strideY": 1, "kernelX": 1, "kernelY": 1, "padX": 0, "padY": 0,
        "group": 1, "outputCount": rows, "inputCount": columns, "padMode": "CAFFE", "relu": False, "relu6": False,
        "hasOutputShape": False,
    }  # fmt: skip
    number = list(scope.values).index(name) + 1
    return {"common": common, "weight": [number] + [0] * (matrix.size - 1), "bias": [number] + [0] * (rows - 1)}


def fill(mnn: Path, values: Values) -> None:
    """Writes the adapter's values into the convolutions of `mnn`, in place.

    Raises StageFailed unless the file has each of them exactly once, in its size.
    """
    content = bytearray(mnn.read_bytes())
    found: set[str] = set()
    for operator in _operators(flatbuffer.root(bytes(content))):
        name = operator.text(schema.OP_NAME)
        if name not in values:
            continue
        main = operator.table(schema.OP_MAIN)
        for field, array in zip(("weight", "bias"), values[name], strict=True):
            place = main.span(schema.FLOATS["Convolution2D"][field][0]) if main else None
            if place is None or place[1] != array.size or name in found:
                raise StageFailed(f"link: the converter changed {name} of the adapter")
            content[place[0] : place[0] + 4 * array.size] = np.ascontiguousarray(array, "<f4").tobytes()
        found.add(name)
    if lost := sorted(set(values) - found):
        raise StageFailed(f"link: the converter dropped {lost[0]} of the adapter")
    mnn.write_bytes(content)


def _operators(net: Table) -> Iterator[Table]:
    yield from net.tables(schema.NET_OPS)
    for subgraph in net.tables(schema.NET_SUBGRAPHS):
        yield from subgraph.tables(schema.SUBGRAPH_NODES)
